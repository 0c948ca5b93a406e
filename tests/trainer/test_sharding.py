"""Two processes that hold half of the base model each learn the same as one that holds all of it; over gloo, on one machine."""

import json
import os
import re
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from finetune_api.exit_codes import ExitCode
from tests.support.sharding_checks import (
    average,
    compare_published,
    count_layers,
    divide_and_gather,
    find_gathered,
    offload,
    take_turns,
)
from tests.support.trainer_process import ENDLESS, RunningTrainer, Trainers
from tests.trainer.test_group_methods import BY_ALL, CASES, STEPS, build_case, read_curve, start
from tests.trainer.test_groups import end, free_port

pytestmark = pytest.mark.torch

SHARDED = {
    **{name: case for name, case in CASES.items() if name != "int8"},
    "kto": BY_ALL["kto"],
    "lora": build_case(),
    "nf4": build_case(quantization="nf4"),
    "packed": build_case(packing=True),
    "qlora": {**build_case(optimizer="paged_adamw_8bit", packing=True), "quantization": {"type": "nf4", "computeDtype": "bfloat16"}},
    "none-bfloat16": {**build_case(adapter={"type": "none"}), "quantization": {"type": "none", "computeDtype": "bfloat16"}},
    "gradients": build_case(adapter={"type": "none"}),
    "gradients-bfloat16": {**build_case(adapter={"type": "none"}), "quantization": {"type": "none", "computeDtype": "bfloat16"}},
    "offloaded": build_case(adapter={"type": "none"}, optimizer="adamw_torch_fused"),
    "compiled-offloaded": build_case(adapter={"type": "none"}, compile=True),
    "lora-offloaded": build_case(),
    "nf4-offloaded": build_case(quantization="nf4"),
}
FULL = {"sharding": "full"}
OFFLOADED = {"sharding": "full", "shardOffloading": True}
WAYS = {
    "gradients": {"sharding": "gradients"},
    "gradients-bfloat16": {"sharding": "gradients"},
    "offloaded": {"sharding": "gradients", "shardOffloading": True},
    "compiled-offloaded": {"sharding": "gradients", "shardOffloading": True},
    "lora-offloaded": OFFLOADED,
    "nf4-offloaded": OFFLOADED,
}
"""How the model is divided where it is not by ``full``."""
TOLERANCES = {
    "nf4": 1e-2,
    "nf4-offloaded": 1e-2,
    "loftq": 1e-2,
    "qlora": 1e-2,
    "none-bfloat16": 2e-2,
    "gradients-bfloat16": 2e-2,
    "packed": 1e-3,
}
"""What 16 bits cost: on a quantised base the adapter and its gradients are held in them. And what it costs that packed held-out sequences
can't be divided evenly, so that one is measured twice. All else is held to one part in 10,000.
"""
SLICE = ("lora", "qlora", "none", "offloaded")
"""What is tested each time. All of it is by `make group-methods`."""
CHOSEN = tuple(SHARDED) if os.environ.get("FINETUNE_GROUP_METHODS") == "all" else SLICE
POD: dict[str, Any] = {
    "group": {"nodes": 1, "processes": 2, "address": "127.0.0.1"},
    "device": {"gpus": 2, "allowCpu": True},
    "environ": {"CUDA_VISIBLE_DEVICES": ""},
}
"""One pod with a process for each of its GPUs, which are simulated, instead of two pods; its processes load the model in turn."""
ASKED = {"samples": {"count": 2}, "generation": {"maxNewTokens": 8}}


def run(trainers: Trainers, workspace: Path, name: str, case: dict[str, Any], size: int, **changes: Any) -> list[RunningTrainer]:
    group = start(trainers, workspace, name, case, size, **changes)
    assert end(group) == [0] * size, "\n".join(process.log for process in group)
    return group


def find_artifact(workspace: Path, name: str) -> Path:
    return next((workspace / "out" / name).glob("*/metrics.jsonl")).parent


@pytest.mark.parametrize("name", CHOSEN)
def test_halves_learn_what_the_whole_learns(name: str, trainers: Trainers, workspace: Path, tmp_path: Path) -> None:
    """Loss, gradient norm and held-out loss of each step are those of one process (of two that hold all of it, where what is learnt hangs
    on their number), each process holds half of the base, and what is published is what one process publishes.
    """
    case = SHARDED[name]
    asks = case["objective"] != "reward"
    size = 2 if name in BY_ALL else 1
    whole = start(trainers, workspace, f"whole-{name}", case, size)
    way = WAYS.get(name, FULL)
    options: dict[str, Any] = {"evaluation": ASKED} if asks else {}
    if name == "ia3":
        halves = start(trainers, workspace, f"halves-{name}", case, 1, training={"gradientAccumulationSteps": 2, **way}, **POD, **options)
    else:
        halves = start(trainers, workspace, f"halves-{name}", case, 2, training=way, **options)
    assert end(whole) == [0] * size, whole[0].log
    assert set(end(halves)) == {0}, "\n".join(process.log for process in halves)
    curves = []
    for run_name in (f"whole-{name}", f"halves-{name}"):
        lines = read_curve(workspace, run_name)
        curves.append({key: [line[key] for line in lines if key in line] for key in ("loss", "grad_norm", "eval_loss", "num_tokens")})
    assert len(curves[0]["loss"]) == STEPS
    for key in curves[0]:
        assert curves[1][key] == pytest.approx(curves[0][key], rel=TOLERANCES.get(name, 1e-4)), key
    parts = re.findall(r"([\d.]+) of ([\d.]+) MiB in each", "".join(process.log for process in halves))
    assert len(parts) == 2
    assert all(float(held) < 0.75 * float(total) for held, total in parts)
    folders = [find_artifact(workspace, f"{kind}-{name}") for kind in ("halves", "whole")]
    if asks:
        answers = json.loads((folders[0] / "evaluation.json").read_text())["samples"]
        assert all({"before", "after"} <= set(answer) for answer in answers)
    if asks and case["objective"] == "sft":
        seen = tmp_path / "seen.json"
        compared = trainers.call(compare_published, workspace / "model", *folders, seen)
        assert compared.wait() == 0, compared.log
        figures = json.loads(seen.read_text())
        assert figures["difference"] < (0.1 if name in TOLERANCES else 0.02) * figures["effect"]


@pytest.mark.parametrize("name", ["lora", "none"])
def test_halves_go_on_as_if_never_stopped(name: str, trainers: Trainers, workspace: Path) -> None:
    """A checkpoint is whole: two halves go on from it to the same curve, and so does one process that holds all of the model. In full
    fine-tuning the halves are then divided in another way.
    """
    changes: dict[str, Any] = {"training": {"maxSteps": 8, "checkpoint": {"everySteps": 2, "keep": 2}, **FULL}}
    otherwise = {**changes, "training": changes["training"] | (WAYS["offloaded"] if name == "none" else FULL)}
    run(trainers, workspace, f"sharded-{name}-whole", SHARDED[name], 2, **changes)
    run_name = f"sharded-{name}-stopped"
    gate = trainers.make_gate(step=4)
    group = start(trainers, workspace, run_name, SHARDED[name], 2, gate, **changes)
    checkpoints = workspace / "out" / run_name / "checkpoints" / f"uid-{run_name}"
    group[0].wait_for((checkpoints / "step-00000002" / "manifest.json").exists, "checkpoint of step 2")
    group[1].send(signal.SIGTERM)
    gate.open()
    assert end(group) == [ExitCode.INTERRUPTED] * 2, "\n".join(process.log for process in group)
    shutil.rmtree(workspace / "work" / run_name)
    kept = workspace / "out" / f"{run_name}-kept"
    shutil.copytree(workspace / "out" / run_name, kept)
    first, _ = run(trainers, workspace, run_name, SHARDED[name], 2, **otherwise)
    assert "going on from the checkpoint" in first.log
    expected = [line["loss"] for line in read_curve(workspace, f"sharded-{name}-whole") if "loss" in line]
    assert [line["loss"] for line in read_curve(workspace, run_name) if "loss" in line] == expected
    shutil.rmtree(workspace / "out" / run_name)
    kept.rename(workspace / "out" / run_name)
    shutil.rmtree(workspace / "work" / run_name)
    (alone,) = run(trainers, workspace, run_name, SHARDED[name], 1, **changes)
    assert "going on from the checkpoint" in alone.log
    assert [line["loss"] for line in read_curve(workspace, run_name) if "loss" in line] == pytest.approx(expected, rel=1e-4)


def test_one_that_is_killed_ends_the_other_uncounted(trainers: Trainers, workspace: Path) -> None:
    """Whoever waits for the other's half of a layer hears of its end by the group's own beat."""
    training = {"maxSteps": ENDLESS, "checkpoint": {"everySteps": 2}, **FULL}
    group = start(trainers, workspace, "sharded-killed", SHARDED["lora"], 2, training=training)
    checkpoints = workspace / "out" / "sharded-killed" / "checkpoints" / "uid-sharded-killed"
    group[0].wait_for((checkpoints / "step-00000002" / "manifest.json").exists, "checkpoint of step 2")
    group[1].send(signal.SIGKILL)
    assert group[0].wait() == ExitCode.PEER_LOST, group[0].log
    assert group[0].summary.outcome == "interrupted"


def test_the_layers_of_every_family_are_found(trainers: Trainers, tmp_path: Path) -> None:
    counted = trainers.call(count_layers, tmp_path / "seen.json")
    assert counted.wait() == 0, counted.log
    seen = json.loads((tmp_path / "seen.json").read_text())
    assert len(seen) > 20
    assert all(found == known for found, known in seen.values()), seen


def test_gradients_that_are_whole_in_each_process_are_averaged(trainers: Trainers, tmp_path: Path) -> None:
    """A weight that one process has not used counts as 0 there; one that none has used keeps no gradient, and no frozen one gets one."""
    port = free_port()
    files = [tmp_path / f"seen-{rank}.json" for rank in range(2)]
    pair = [trainers.call(average, rank, port, file) for rank, file in enumerate(files)]
    assert end(pair) == [0, 0], pair[0].log + pair[1].log
    expected = [["torch.float32", [2.0]], ["torch.float32", [2.5]], None, ["torch.bfloat16", [2.0]], None]
    assert [json.loads(file.read_text()) for file in files] == [expected, expected]


def test_what_is_divided_and_gathered_is_as_it_was(trainers: Trainers, tmp_path: Path) -> None:
    """With fewer rows than processes, too, and where they can't be shared out evenly; in the type of what it is divided like."""
    port = free_port()
    files = [tmp_path / f"seen-{rank}.json" for rank in range(2)]
    pair = [trainers.call(divide_and_gather, rank, port, file) for rank, file in enumerate(files)]
    assert end(pair) == [0, 0], pair[0].log + pair[1].log
    rows = [[part[1][0] for part in json.loads(file.read_text())] for file in files]
    assert rows == [[1, 2, 2], [0, 1, 2]]
    assert all(part[::2] == ["torch.float32", True] for file in files for part in json.loads(file.read_text()))


def test_with_gradients_weights_stay_gathered_until_the_backward_pass_and_no_longer(trainers: Trainers, tmp_path: Path) -> None:
    """Between steps, and after an evaluation, whoever reads the weights finds the parts that are trained."""
    port = free_port()
    files = [tmp_path / f"seen-{rank}.json" for rank in range(2)]
    pair = [trainers.call(find_gathered, rank, port, file) for rank, file in enumerate(files)]
    assert end(pair) == [0, 0], pair[0].log + pair[1].log
    for file in files:
        seen = json.loads(file.read_text())
        assert seen["gradients"].pop("after the forward pass") == 2 * 9 + 3
        assert not any(seen["gradients"].values())
        assert not any(seen["full"].values())


def test_offloaded_parts_stay_in_the_nodes_memory_and_compute_on_the_gpu(trainers: Trainers, tmp_path: Path) -> None:
    """Weights, gradients and an optimizer's states, through a step, clipping, and a checkpoint. Devices are simulated."""
    found = trainers.call(offload, tmp_path / "seen.json")
    assert found.wait() == 0, found.log
    node, gpu = "cuda", "cpu"  # as benchmarks/estimate/offloaded_parts.py has it
    expected = {"model": gpu, "asked": gpu, "computed": gpu, "weights": [node], "gradients": [node], "states": [node], "norm": node}
    assert json.loads((tmp_path / "seen.json").read_text()) == expected


def test_what_takes_the_nodes_memory_is_done_in_turn(trainers: Trainers, tmp_path: Path) -> None:
    """The second process of a pod begins when the first has ended, though it came first."""
    port = free_port()
    pair = [trainers.call(take_turns, rank, port, tmp_path) for rank in range(2)]
    assert end(pair) == [0, 0], pair[0].log + pair[1].log
    assert (tmp_path / "order").read_text().splitlines() == ["begin 0", "end 0", "begin 1", "end 1"]
