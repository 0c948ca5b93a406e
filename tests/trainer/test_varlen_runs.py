"""Whole runs whose packed examples are told apart by variable lengths, on a stand-in for the kernel: they learn what others learn."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.trainer_process import Trainers
from tests.support.trainer_workspace import make_config
from tests.support.varlen_kernel import stop_and_go_on, train_both_ways, train_in_group
from tests.trainer.test_groups import end, free_port, read_losses

pytestmark = pytest.mark.torch

EXACT = {"type": "none", "computeDtype": "float32"}
LORA = {"r": 8, "alpha": 16, "dropout": 0.1}
TRAINING = {"maxSteps": 8, "optimizer": "adamw_torch", "evalSteps": 4}


def build(workspace: Path, name: str, method: dict[str, Any], **changes: Any) -> dict[str, Any]:
    changes = {"evaluation": {"samples": {"count": 2, "inStatus": 2}}, **changes}
    return make_config(workspace, f"varlen-{name}", method=method, training={**TRAINING, **changes.pop("training", {})}, **changes)


def build_all(workspace: Path) -> dict[str, dict[str, Any]]:
    teacher = {"teacher": {"uri": f"file://{workspace}/teacher"}}
    texts = {"uri": f"file://{workspace}/texts.jsonl", "evalFraction": 0.2}
    return {
        "sft": build(workspace, "sft", {"adapter": LORA, "quantization": EXACT}),
        "without checkpointing": build(
            workspace, "plain", {"adapter": LORA, "quantization": EXACT}, training={"gradientCheckpointing": False}
        ),
        "pretrain": build(workspace, "pretrain", {"objective": "pretrain", "adapter": LORA, "quantization": EXACT}, dataset=texts),
        "distill": build(workspace, "distill", {"objective": "distill", "adapter": LORA, "quantization": EXACT, "distill": teacher}),
        "nf4": build(workspace, "nf4", {"adapter": LORA, "quantization": {"type": "nf4", "computeDtype": "float32"}}),
        "all weights": build(workspace, "all", {"adapter": {"type": "none"}, "quantization": EXACT}, training={"learningRate": 1e-3}),
        "all weights, mixed precision": build(
            workspace, "mixed", {"adapter": {"type": "none"}, "quantization": {"type": "none"}}, training={"learningRate": 1e-3}
        ),
    }


ROUNDED = {"all weights, mixed precision": 1e-2}
"""By how much losses may differ where it is not computed in 32 bits."""


@pytest.fixture(scope="module")
def seen(trainers: Trainers, workspace: Path) -> dict[str, Any]:
    """What came of each run, both ways."""
    result = workspace / "varlen.json"
    done = trainers.call(train_both_ways, build_all(workspace), result)
    assert done.wait() == 0, done.log[-4000:]
    told: dict[str, Any] = json.loads(result.read_text())
    return told


@pytest.mark.parametrize("name", build_all(Path()))
def test_it_learns_what_it_learns_by_a_mask(name: str, seen: dict[str, Any]) -> None:
    """The losses of all steps, the held-out ones before and after, and the answers to prompts."""
    mask, lengths = seen[name]["mask"], seen[name]["lengths"]
    rounding = ROUNDED.get(name, 1e-5)
    assert len(mask["losses"]) == TRAINING["maxSteps"]
    assert lengths["losses"] == pytest.approx(mask["losses"], rel=rounding)
    assert lengths["eval_losses"] == pytest.approx(mask["eval_losses"], rel=rounding)
    assert mask["eval_losses"][1] < mask["eval_losses"][0]
    if name not in ROUNDED:
        assert mask["answers"]
        assert lengths["answers"] == mask["answers"]


@pytest.mark.parametrize("name", build_all(Path()))
def test_the_log_says_which_it_was(name: str, seen: dict[str, Any], workspace: Path) -> None:
    uris = [f"file://{workspace}/model", *([f"file://{workspace}/teacher"] if name == "distill" else [])]
    assert seen[name]["mask"]["said"] == [
        f"{uri}: packed examples are told apart by a mask: torch has a kernel for it on GPUs alone" for uri in uris
    ]
    assert seen[name]["lengths"]["said"] == [
        f"{uri}: packed examples are told apart by variable lengths in all 2 layers; held against a mask on this device" for uri in uris
    ]
    assert seen[name]["lengths"]["calls"]["backward"] > 2 * TRAINING["maxSteps"]


@pytest.mark.parametrize("sharding", ["none", "full"])
def test_two_processes_learn_by_lengths_what_one_does_by_a_mask(sharding: str, trainers: Trainers, workspace: Path) -> None:
    """Each with the whole base model, and each with half of it."""
    # Within a pass over the data: its last batches are not divided evenly
    name, training = f"group-{sharding}", {"maxSteps": 4, "perDeviceBatchSize": 1, "evalSteps": None, "sharding": sharding}
    method = {"adapter": {**LORA, "dropout": 0}, "quantization": EXACT}
    alone = build(workspace, f"{name}-alone", method, training={**training, "gradientAccumulationSteps": 4, "sharding": "none"})
    started = trainers.start(alone)
    together = build(workspace, name, method, training={**training, "gradientAccumulationSteps": 2})
    together["group"] = {"nodes": 2, "address": "127.0.0.1", "port": free_port()}
    pods = [{**together, "workDir": f"{together['workDir']}/pod-{rank}"} for rank in range(2)]
    group = [trainers.call(train_in_group, pod, rank) for rank, pod in enumerate(pods)]
    assert end([started, *group]) == [0, 0, 0], group[0].log[-4000:]
    assert all("told apart by variable lengths in all 2 layers" in process.log for process in group)
    losses = [read_losses(workspace, f"varlen-{each}") for each in (f"{name}-alone", name)]
    assert len(losses[0]) == 4
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


def test_a_stopped_run_goes_on_to_the_last_bit(trainers: Trainers, workspace: Path) -> None:
    result = workspace / "varlen-stopped.json"
    config = build(workspace, "stopped", {"adapter": LORA, "quantization": EXACT}, evaluation={"samples": {"count": 0}})
    done = trainers.call(stop_and_go_on, {"sft": config}, 3, result)
    assert done.wait() == 0, done.log[-4000:]
    told = json.loads(result.read_text())["sft"]
    assert told["stopped_at"] == 3
    assert told["resumed"] == told["whole"]
