"""Two processes learn the same as one, whatever they learn and by whichever adapter; over gloo, on one machine."""

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from finetune_api.exit_codes import ExitCode
from tests.support.trainer_process import Gate, RunningTrainer, Trainers
from tests.support.trainer_workspace import make_config
from tests.trainer.test_groups import end, free_port

pytestmark = pytest.mark.torch

STEPS = 4
LORA = {"r": 8, "alpha": 16, "dropout": 0}


def build_case(
    objective: str = "sft", adapter: dict[str, Any] | None = None, file: str = "train", quantization: str = "none", **training: Any
) -> dict[str, Any]:
    whole = {"type": quantization, "computeDtype": "float32"}
    return {"objective": objective, "adapter": adapter or LORA, "quantization": whole, "file": file, "training": training}


CASES: dict[str, dict[str, Any]] = {
    "dpo": build_case("dpo", file="pairs"),
    "orpo": build_case("orpo", file="pairs"),
    "reward": build_case("reward", file="pairs"),
    "distill": build_case("distill"),
    "pretrain": build_case("pretrain", file="texts"),
    "rslora": build_case(adapter={**LORA, "rslora": True}),
    "dora": build_case(adapter={**LORA, "dora": True}),
    "loraplus": build_case(adapter={**LORA, "loraPlusRatio": 16}),
    "olora": build_case(adapter={**LORA, "init": "olora"}),
    "pissa": build_case(adapter={**LORA, "init": "pissa"}),
    "eva": build_case(adapter={**LORA, "init": "eva"}),
    "loftq": build_case(adapter={**LORA, "init": "loftq"}, quantization="nf4"),
    "int8": build_case(quantization="int8"),
    "adalora": build_case(adapter={"type": "adalora", "r": 4, "dropout": 0}),
    "ia3": build_case(adapter={"type": "ia3"}),
    "prompt-tuning": build_case(adapter={"type": "prompt-tuning"}),
    "p-tuning": build_case(adapter={"type": "p-tuning"}),
    "p-tuning-lstm": build_case(adapter={"type": "p-tuning", "encoder": "lstm"}),
    "prefix-tuning": build_case(adapter={"type": "prefix-tuning"}, gradientCheckpointing=False),
    "none": build_case(adapter={"type": "none"}),
}
BY_ALL: dict[str, dict[str, Any]] = {
    "kto": build_case("kto", file="labelled", perDeviceBatchSize=2),
    "grpo": build_case("grpo", file="prompts", perDeviceBatchSize=4),
}
"""What another number of processes learns otherwise: from a divergence that is estimated over all of them, or from answers of their own."""
GRPO = {"numGenerations": 4, "maxCompletionLength": 8, "rewards": [{"name": "vowel", "type": "regex", "pattern": "[aeiou]"}]}
SLICE = ("dpo", "distill", "adalora", "prefix-tuning")
"""What is tested each time. All of it is by `make group-methods`."""
WHOLE = os.environ.get("FINETUNE_GROUP_METHODS") == "all"
CHOSEN = tuple(CASES) if WHOLE else SLICE
RESUMED = (*CASES, *BY_ALL) if WHOLE else ("adalora", "grpo")


def start(
    trainers: Trainers, workspace: Path, name: str, case: dict[str, Any], size: int, gate: Gate | None = None, **changes: Any
) -> list[RunningTrainer]:
    method = {"objective": case["objective"], "adapter": case["adapter"], "quantization": case["quantization"]}
    if case["objective"] == "distill":
        method["distill"] = {"teacher": {"uri": f"file://{workspace}/teacher"}}
    if case["objective"] == "grpo":
        method["grpo"] = GRPO
    training = {
        "maxSteps": STEPS,
        "learningRate": 1e-2,
        "lrScheduler": "constant",
        "warmupRatio": 0,
        "perDeviceBatchSize": 1,
        "gradientAccumulationSteps": 4 // size,
        "optimizer": "adamw_torch",
        "packing": False,
        "evalSteps": None,
        "checkpoint": {"everySteps": 100, "keep": 1},
        **case["training"],
        **changes.pop("training", {}),
    }
    dataset = {"uri": f"file://{workspace}/{case['file']}.jsonl", "evalFraction": 0.1}
    evaluation, environ = changes.pop("evaluation", {"samples": {"count": 0}}), changes.pop("environ", {})
    config = make_config(workspace, name, method=method, training=training, dataset=dataset, evaluation=evaluation, **changes)
    group = {"nodes": size, "address": "127.0.0.1", "port": free_port()}
    own = [{**config, "workDir": f"{config['workDir']}/pod-{rank}", **({"group": group} if size > 1 else {})} for rank in range(size)]
    return [trainers.start(each, {"JOB_COMPLETION_INDEX": str(rank), **environ}, gate) for rank, each in enumerate(own)]


def read_curve(workspace: Path, name: str) -> list[dict[str, float]]:
    folder = workspace / "out" / name
    file = next(folder.glob("*/metrics.jsonl"))
    return [json.loads(line) for line in file.read_text().splitlines()]


@pytest.mark.parametrize("name", CHOSEN)
def test_two_processes_learn_what_one_learns(name: str, trainers: Trainers, workspace: Path) -> None:
    """2 x 2 batches a step are the 1 x 4 of one process: the loss, the gradient and the held-out loss of each step are the same."""
    groups = {size: start(trainers, workspace, f"methods-{name}-{size}", CASES[name], size) for size in (1, 2)}
    curves = {}
    for size, group in groups.items():
        assert end(group) == [0] * size, "\n".join(process.log for process in group)
        lines = read_curve(workspace, f"methods-{name}-{size}")
        curves[size] = {key: [line[key] for line in lines if key in line] for key in ("loss", "grad_norm", "eval_loss", "num_tokens")}
    assert len(curves[1]["loss"]) == STEPS
    for key in curves[1]:
        assert curves[2][key] == pytest.approx(curves[1][key], rel=1e-4), key


def test_two_processes_begin_kto_as_one_does(trainers: Trainers, workspace: Path) -> None:
    """Before the first step nothing diverges from the reference, so that the first gradient is the same; then all of them learn."""
    curves = {}
    for size in (1, 2):
        group = start(trainers, workspace, f"methods-kto-{size}", BY_ALL["kto"], size)
        assert end(group) == [0] * size, "\n".join(process.log for process in group)
        curves[size] = read_curve(workspace, f"methods-kto-{size}")
    first = {size: next(line for line in lines if "grad_norm" in line) for size, lines in curves.items()}
    for key in ("loss", "grad_norm", "num_tokens"):
        assert first[2][key] == pytest.approx(first[1][key], rel=1e-4), key
    held_out = [line["eval_loss"] for line in curves[2] if "eval_loss" in line]
    assert held_out[-1] < held_out[0]


@pytest.mark.parametrize("name", RESUMED)
def test_two_processes_go_on_as_if_never_stopped(name: str, trainers: Trainers, workspace: Path) -> None:
    """Whatever the adapter keeps beside its weights, ranks and averages, is in the checkpoint, and both take it up."""
    changes: dict[str, Any] = {"training": {"maxSteps": 8, "checkpoint": {"everySteps": 2, "keep": 2}}}
    case = {**CASES, **BY_ALL}[name]
    assert end(start(trainers, workspace, f"methods-{name}-whole", case, 2, **changes)) == [0, 0]
    run = f"methods-{name}-stopped"
    gate = trainers.make_gate(step=4)
    group = start(trainers, workspace, run, case, 2, gate, **changes)
    checkpoints = workspace / "out" / run / "checkpoints" / f"uid-{run}"
    group[0].wait_for((checkpoints / "step-00000002" / "manifest.json").exists, "checkpoint of step 2")
    group[1].send(signal.SIGTERM)
    gate.open()
    assert end(group) == [ExitCode.INTERRUPTED] * 2, "\n".join(process.log for process in group)
    shutil.rmtree(workspace / "work" / run)
    group = start(trainers, workspace, run, case, 2, **changes)
    assert end(group) == [0, 0], "\n".join(process.log for process in group)
    assert "going on from the checkpoint" in group[0].log
    key = "reward" if name == "grpo" else "loss"  # the loss of the first step on answers of one's own is 0
    figures = [[line[key] for line in read_curve(workspace, each) if key in line] for each in (run, f"methods-{name}-whole")]
    assert len(figures[0]) == 8
    assert figures[0] == figures[1]
