"""What a run needs of a GPU is said where its model is known, and what the cluster has beside it."""

from typing import Any, cast

import pytest

from finetune_api.progress import Metrics
from finetune_api.status import Condition, ConditionType, FineTuneJobStatus
from finetune_operator.capacity import LargestGpu, Request, Verdict
from finetune_operator.fit import FitBook
from finetune_operator.kube.client import FINETUNEJOBS, JOBS, PODS
from finetune_operator.kube.store import Store
from finetune_operator.memory import compute_need, describe_shortage
from finetune_operator.nodes import NodeBook
from finetune_operator.observe import Observer
from finetune_operator.status.compute import compute_status
from tests.support.manifests import Manifest
from tests.support.world import NOW, UID, build_finetunejob, build_pod, build_spec, build_stored_job

KNOWN: Manifest = {"model": {"uri": "hf://meta-llama/Llama-3.1-70B-Instruct"}}
UNKNOWN: Manifest = {"model": {"uri": "s3://team-a/model"}}
L4 = LargestGpu(23034 * 2**20, "nvidia.com/gpu of the cluster (NVIDIA-L4)")


def test_a_well_known_model_is_estimated_without_being_read() -> None:
    need = compute_need(build_spec(KNOWN), None)
    assert need is not None
    assert 50 < need.size_bytes / 2**30 < 65
    assert need.words.startswith(f"Needs about {need.size_bytes / 2**30:.1f} GiB of a GPU's memory, by estimate (base in 4 bits 31.")


def test_of_a_divided_model_it_says_what_each_gpu_needs() -> None:
    several: Manifest = {**KNOWN, "resources": {"gpus": 4, "nodes": 2}, "method": {"quantization": {"type": "none"}}}
    whole, divided = compute_need(build_spec(several), None), compute_need(build_spec({**several, "training": {"sharding": "full"}}), None)
    assert whole is not None
    assert divided is not None
    assert " of a GPU's memory, by estimate (base 127" in whole.words
    assert " of each of 8 GPUs' memory, by estimate (base 15.9 GiB, " in divided.words
    assert divided.size_bytes < whole.size_bytes / 3
    h100 = LargestGpu(80 * 2**30, "nvidia.com/gpu of the cluster (NVIDIA-H100)")
    assert "It would fit with training.sharding: full" in describe_shortage(build_spec(several), h100)


def test_of_offloaded_parts_it_says_what_each_pod_needs_of_its_node() -> None:
    training = {"sharding": "full", "shardOffloading": True}
    several: Manifest = {**KNOWN, "resources": {"gpus": 4, "memory": "64Gi"}, "method": {"quantization": {"type": "none"}}}
    need = compute_need(build_spec({**several, "training": training}), None)
    assert need is not None
    told = " Of each pod's memory it needs about 230 GiB for what training.shardOffloading holds there; resources.memory is 64Gi."
    assert need.words.endswith(told)


def test_of_any_other_model_the_trainer_tells_after_its_first_attempt() -> None:
    assert compute_need(build_spec(UNKNOWN), None) is None
    assert compute_need(build_spec(UNKNOWN), Metrics()) is None
    need = compute_need(build_spec(UNKNOWN), Metrics(gpu_memory_estimate_bytes=31 * 2**30))
    assert need is not None
    assert need.words == "Needs about 31 GiB of a GPU's memory, by the trainer's estimate."


@pytest.mark.parametrize(
    "spec",
    [
        {**KNOWN, "resources": {"gpus": 0}},
        {"model": {"uri": "hf://someone/Llama-3.1-70B-Instruct"}},
        {
            **KNOWN,
            "method": {"objective": "distill", "distill": {"teacher": {"uri": "s3://team-a/teacher"}}},
        },
    ],
    ids=["on the CPU", "somebody's own", "a teacher that is not known"],
)
def test_what_is_not_known_is_not_guessed(spec: Manifest) -> None:
    assert compute_need(build_spec(spec), None) is None


def test_what_would_make_it_fit_is_said() -> None:
    spec = build_spec({"model": {"uri": "hf://Qwen/Qwen2.5-32B"}})
    words = describe_shortage(spec, L4)
    assert words.startswith("The largest nvidia.com/gpu of the cluster (NVIDIA-L4) has 22.5 GiB: the run will probably run out of memory. ")
    assert words.endswith("It would fit with training.maxLength: 256; or with training.perDeviceBatchSize: 1, training.maxLength: 512.")
    assert describe_shortage(build_spec(KNOWN), L4).endswith("No single change would make it fit.")


class Nodes:
    """Stands for the book of nodes: answers what a test says."""

    def __init__(self) -> None:
        self.verdict: Verdict | None = None
        self.asked: list[tuple[Request, bool]] = []

    def judge(self, uid: str, request: Request, *, says_more: bool = False, once: bool = False) -> Verdict | None:
        del uid, once
        self.asked.append((request, says_more))
        return self.verdict


def test_what_would_help_is_found_for_each_number_of_gpus() -> None:
    """It is kept for runs that are alike; of two that differ in their GPUs alone, one can divide its model."""
    nodes = Nodes()
    nodes.verdict = Verdict(too_small=LargestGpu(80 * 2**30, "nvidia.com/gpu of the cluster (NVIDIA-H100)"))
    book = FitBook(cast("NodeBook", nodes), estimates=True)
    method = {"quantization": {"type": "none"}}
    alone, several = (
        book.judge(str(gpus), 1, build_spec({**KNOWN, "method": method, "resources": {"gpus": gpus}}), FineTuneJobStatus(), settled=False)
        for gpus in (1, 8)
    )
    assert "training.sharding" not in str(alone.shortage)
    assert "training.sharding: full" in str(several.shortage)


class World:
    """A run, and what its status says after each look at it."""

    def __init__(self, spec: Manifest) -> None:
        self.nodes = Nodes()
        self.store = Store()
        self.observer = Observer(self.store, simulated_gpus=False, nodes=cast("NodeBook", self.nodes))
        self.spec = spec
        self.status: Manifest | None = None
        self.version = 0

    def tell(self, metrics: Manifest) -> None:
        """Write what a report says into status."""
        assert self.status is not None
        self.status |= {"metrics": metrics}

    def accepted(self, verdict: Verdict | None, *, looks: int = 1, **spec: Any) -> Condition:
        self.version += 1
        self.nodes.verdict = verdict
        self.store.put(FINETUNEJOBS, build_finetunejob(self.spec | spec, self.status, version=self.version))
        for _ in range(looks):
            observation = self.observer.observe(UID)
        assert observation is not None
        status = compute_status(observation, NOW)
        self.status = status.model_dump(mode="json", by_alias=True, exclude_none=True)
        return next(each for each in status.conditions if each.type == ConditionType.ACCEPTED)


def test_accepted_says_the_estimate_and_that_no_gpu_has_so_much() -> None:
    world = World(KNOWN)
    accepted = world.accepted(Verdict(too_small=L4))
    assert (accepted.status, accepted.reason) == ("True", "Valid")
    assert accepted.message.startswith("Needs about ")
    assert "The largest nvidia.com/gpu of the cluster (NVIDIA-L4) has 22.5 GiB" in accepted.message
    ((request, _),) = world.nodes.asked
    assert request.needed_bytes is not None


def test_the_words_stay_while_nobody_looks_at_nodes_and_go_when_a_larger_one_has_come() -> None:
    """Nodes are looked at only while a run waits: the same words need no write."""
    world = World(KNOWN)
    before = world.accepted(None)
    assert "The largest" not in before.message
    said = world.accepted(Verdict(too_small=L4))
    assert world.accepted(None) == said
    assert [says_more for _, says_more in world.nodes.asked] == [False, False, True]
    assert world.accepted(Verdict()).message == before.message


def test_a_run_that_has_no_need_of_a_node_any_more_is_held_against_them_once() -> None:
    """A pass observes more than once, and all of it must say the same."""
    world = World(KNOWN)
    said = world.accepted(Verdict(misfit="no node", too_small=L4), looks=3, suspend=True)
    assert "The largest" in said.message
    assert len(world.nodes.asked) == 1
    assert world.status is not None
    assert "no node" not in str(world.status)


def test_what_the_trainer_tells_is_said_from_the_next_attempt_on() -> None:
    """While the first one runs, the figure is in status; to say it in words at once would be a write of its own."""
    world = World(UNKNOWN)
    world.store.put(JOBS, build_stored_job())
    world.store.put(PODS, build_pod("first", phase="Running", state={"running": {}}))
    assert world.accepted(Verdict()).message == ""
    world.tell({"gpuMemoryEstimateBytes": 31 * 2**30})
    assert world.accepted(Verdict(too_small=L4)).message == ""
    world.store.put(PODS, build_pod("first", phase="Failed", version=21))
    waiting = world.accepted(Verdict(too_small=L4))
    assert waiting.message.startswith("Needs about 31 GiB of a GPU's memory, by the trainer's estimate. The largest nvidia.com/gpu")
    world.store.put(PODS, build_pod("second", phase="Running", state={"running": {}}, version=22))
    assert world.accepted(None) == waiting


def test_a_run_whose_model_is_not_known_is_accepted_without_words() -> None:
    world = World(UNKNOWN)
    assert world.accepted(Verdict()).message == ""
    assert [request.needed_bytes for request, _ in world.nodes.asked] == [None]
