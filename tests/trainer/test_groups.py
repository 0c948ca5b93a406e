"""Several processes train one run together, on one machine and over gloo, each as the trainer of one pod."""

import json
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from finetune_api.exit_codes import ExitCode
from finetune_devcluster.ports import find_free_ports
from tests.support.trainer_process import ENDLESS, Gate, RunningTrainer, Trainers
from tests.support.trainer_workspace import crash_as_all_do, make_config

pytestmark = pytest.mark.torch

STEPS = 4
METHOD = {"adapter": {"r": 8, "alpha": 16, "dropout": 0}, "quantization": {"type": "none", "computeDtype": "float32"}}
TRAINING = {
    "maxSteps": STEPS,
    "perDeviceBatchSize": 1,
    "optimizer": "adamw_torch",
    "packing": False,
    "evalSteps": None,
    "checkpoint": {"everySteps": 2, "keep": 2},
}


def free_port() -> int:
    (port,) = find_free_ports(1)
    return port


def start_group(
    trainers: Trainers, workspace: Path, name: str, size: int, gate: Gate | None = None, **changes: Any
) -> list[RunningTrainer]:
    """Start the trainers of ``size`` pods, each with a disk of its own."""
    port = free_port()
    training = {**TRAINING, "gradientAccumulationSteps": 8 // size, **changes.pop("training", {})}
    group = {"nodes": size, "address": "127.0.0.1", "port": port} if size > 1 else None
    config = make_config(workspace, name, training=training, **{"method": METHOD, **changes})
    started = []
    for rank in range(size):
        own = {**config, "workDir": f"{config['workDir']}/pod-{rank}", **({"group": group} if group else {})}
        started.append(trainers.start(own, {"JOB_COMPLETION_INDEX": str(rank)}, gate))
    return started


def end(group: list[RunningTrainer]) -> list[int]:
    return [process.wait() for process in group]


def read_losses(workspace: Path, name: str) -> list[float]:
    lines = map(json.loads, (workspace / "out" / name / "adapter" / "metrics.jsonl").read_text().splitlines())
    return [line["loss"] for line in lines if "loss" in line]


@pytest.fixture(scope="module")
def alone(trainers: Trainers, workspace: Path) -> list[float]:
    """The loss curve of one process that accumulates eight batches a step."""
    group = start_group(trainers, workspace, "group-1", 1)
    assert end(group) == [0], group[0].log
    return read_losses(workspace, "group-1")


@pytest.mark.parametrize("size", [2, 4])
def test_loss_curve_is_that_of_one_process(size: int, trainers: Trainers, workspace: Path, alone: list[float]) -> None:
    """1 x 8, 2 x 4 and 4 x 2 processes and batches learn the same: each token that is learnt counts the same."""
    group = start_group(trainers, workspace, f"group-{size}", size)
    assert end(group) == [0] * size, "\n".join(process.log for process in group)
    losses = read_losses(workspace, f"group-{size}")
    assert len(losses) == STEPS
    assert losses == pytest.approx(alone, rel=1e-4)
    first, *others = (process.summary for process in group)
    assert [artifact.name for artifact in first.artifacts] == ["adapter"]
    assert all(other.outcome == "completed" and not other.artifacts for other in others)


def test_one_asked_to_stop_stops_all_and_they_go_on_together(trainers: Trainers, workspace: Path) -> None:
    """All save the same step, and the resumed run's curve is that of one that was never stopped."""
    changes: dict[str, Any] = {"training": {"maxSteps": 12, "perDeviceBatchSize": 1}}
    whole = start_group(trainers, workspace, "group-whole", 2, **changes)
    assert end(whole) == [0, 0], whole[0].log
    name = "group-stopped"
    gate = trainers.make_gate(step=4)
    group = start_group(trainers, workspace, name, 2, gate, **changes)
    checkpoints = workspace / "out" / name / "checkpoints" / f"uid-{name}"
    group[0].wait_for((checkpoints / "step-00000002" / "manifest.json").exists, "checkpoint of step 2")
    group[1].send(signal.SIGTERM)
    gate.open()
    assert end(group) == [ExitCode.INTERRUPTED] * 2, "\n".join(process.log for process in group)
    step = group[0].summary.checkpoint_step
    assert step is not None
    assert 2 <= step < 12
    shutil.rmtree(workspace / "work" / name)
    group = start_group(trainers, workspace, name, 2, **changes)
    assert end(group) == [0, 0], "\n".join(process.log for process in group)
    assert read_losses(workspace, name) == read_losses(workspace, "group-whole")


@pytest.mark.parametrize("killed", [0, 1])
def test_killed_one_ends_the_others_uncounted(killed: int, trainers: Trainers, workspace: Path) -> None:
    """The killed one's pod counts as a failure; the others' code is one that does not."""
    name = f"group-killed-{killed}"
    group = start_group(trainers, workspace, name, 2, training={"maxSteps": ENDLESS})
    checkpoints = workspace / "out" / name / "checkpoints" / f"uid-{name}"
    group[0].wait_for((checkpoints / "step-00000002" / "manifest.json").exists, "checkpoint of step 2")
    group[killed].send(signal.SIGKILL)
    survivor = group[1 - killed]
    assert survivor.wait() == ExitCode.PEER_LOST, survivor.log
    assert survivor.summary.outcome == "interrupted"


def test_fault_of_one_is_counted_once(trainers: Trainers, workspace: Path) -> None:
    """The first process can't publish; the others, which could, end by a code that is not counted."""
    blocked = workspace / "out" / "group-blocked"
    blocked.mkdir(parents=True)
    (blocked / "adapter").write_text("where a folder is to be\n")
    group = start_group(trainers, workspace, "group-blocked", 2, training={"maxSteps": 1})
    codes = end(group)
    assert codes[1] == ExitCode.PEER_LOST, group[1].log
    assert codes[0] not in (0, ExitCode.PEER_LOST, ExitCode.INTERRUPTED), group[0].log


def test_fault_of_all_at_once_is_counted_once(trainers: Trainers, workspace: Path) -> None:
    """None may take itself for another's victim: a run that crashes alike in all would be begun anew for ever."""
    config = make_config(workspace, "group-crash", method=METHOD, training={**TRAINING, "gradientAccumulationSteps": 4})
    group = {"nodes": 2, "address": "127.0.0.1", "port": free_port()}
    pods = [{**config, "workDir": f"{config['workDir']}/pod-{rank}", "group": group} for rank in range(2)]
    started = [trainers.call(crash_as_all_do, pod, rank) for rank, pod in enumerate(pods)]
    assert sorted(end(started)) == [ExitCode.CRASHED, ExitCode.PEER_LOST], started[0].log + started[1].log


def newest_step(checkpoints: Path) -> int:
    return max((int(manifest.parent.name.removeprefix("step-")) for manifest in checkpoints.glob("step-*/manifest.json")), default=0)


def test_one_that_begins_anew_alone_makes_the_others_begin_anew(trainers: Trainers, workspace: Path) -> None:
    """Its pod was replaced before the others saw that it was gone."""
    name = "group-replaced"
    port = free_port()
    config = make_config(workspace, name, method=METHOD, training={**TRAINING, "maxSteps": ENDLESS, "gradientAccumulationSteps": 4})
    config["group"] = {"nodes": 2, "address": "127.0.0.1", "port": port}

    def start(rank: int, disk: str) -> RunningTrainer:
        return trainers.start({**config, "workDir": f"{config['workDir']}/{disk}"}, {"JOB_COMPLETION_INDEX": str(rank)})

    first, second = start(0, "a"), start(1, "b")
    checkpoints = workspace / "out" / name / "checkpoints" / f"uid-{name}"
    first.wait_for((checkpoints / "step-00000002" / "manifest.json").exists, "checkpoint of step 2")
    second.send(signal.SIGSTOP)  # as cut off with its node
    third = start(1, "c")
    assert first.wait() == ExitCode.PEER_LOST, first.log
    second.send(signal.SIGKILL)
    before = newest_step(checkpoints)
    fourth = start(0, "d")
    third.wait_for(lambda: newest_step(checkpoints) > before, "a checkpoint of both")
    assert "going on from the checkpoint" in third.log
    fourth.send(signal.SIGTERM)
    assert end([fourth, third]) == [ExitCode.INTERRUPTED] * 2, third.log


def test_pod_with_several_gpus_trains_by_a_process_for_each(trainers: Trainers, workspace: Path, alone: list[float]) -> None:
    """The GPUs are simulated. One word and one exit code speak for the pod, and its data are tokenised once."""
    config = make_config(workspace, "group-gpus", method=METHOD, training={**TRAINING, "gradientAccumulationSteps": 4})
    config |= {"device": {"gpus": 2, "allowCpu": True}, "group": {"nodes": 1, "processes": 2, "address": "127.0.0.1"}}
    code, process = trainers.run(config, {"CUDA_VISIBLE_DEVICES": ""})
    assert code == 0, process.log
    assert [artifact.name for artifact in process.summary.artifacts] == ["adapter"]
    assert read_losses(workspace, "group-gpus") == pytest.approx(alone, rel=1e-4)
    assert process.log.count("The first, with what is learnt") == 1


def test_pod_with_several_gpus_passes_on_that_it_is_to_stop(trainers: Trainers, workspace: Path) -> None:
    name = "group-gpus-stopped"
    config = make_config(workspace, name, method=METHOD, training={**TRAINING, "maxSteps": ENDLESS, "gradientAccumulationSteps": 1})
    config |= {"device": {"gpus": 2, "allowCpu": True}, "group": {"nodes": 1, "processes": 2, "address": "127.0.0.1"}}
    process = trainers.start(config, {"CUDA_VISIBLE_DEVICES": ""})
    checkpoints = workspace / "out" / name / "checkpoints" / f"uid-{name}"
    process.wait_for((checkpoints / "step-00000002" / "manifest.json").exists, "checkpoint of step 2")
    process.send(signal.SIGTERM)
    assert process.wait() == ExitCode.INTERRUPTED, process.log
    assert process.summary.checkpoint_step is not None
