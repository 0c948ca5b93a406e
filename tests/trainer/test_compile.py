"""Compiled layers learn what layers learn that are not, and whatever a run may go through, they go through with it."""

import json
from pathlib import Path
from typing import Any

import pytest

from finetune_api.exit_codes import ExitCode
from tests.support.compile_checks import explain_failures, train_counted
from tests.support.resume_checks import train_with_and_without_a_stop
from tests.support.trainer_process import Trainers
from tests.support.trainer_workspace import fail_in_steps, make_config
from tests.trainer.test_group_methods import build_case, read_curve, start
from tests.trainer.test_groups import end

pytestmark = pytest.mark.torch

STEPS = 6
EXACT: dict[str, Any] = {"adapter": {"r": 8, "alpha": 16, "dropout": 0}, "quantization": {"type": "none", "computeDtype": "float32"}}
TRAINING: dict[str, Any] = {
    "maxSteps": STEPS,
    "learningRate": 1e-2,
    "packing": False,
    "perDeviceBatchSize": 4,
    "gradientAccumulationSteps": 2,
    "optimizer": "adamw_torch",
    "evalSteps": 100,
    "checkpoint": {"everySteps": 100},
}
COMPILED = {"compile": True}
QUIET = {"samples": {"count": 0}}


@pytest.fixture(scope="module")
def counted(trainers: Trainers, workspace: Path) -> dict[str, dict[str, Any]]:
    """The same run with and without compiled layers: checkpointed ones, whose 12 batches are of many lengths."""
    configs = {
        name: make_config(workspace, f"counted-{name}", method=EXACT, training={**TRAINING, **training}, evaluation=QUIET)
        for name, training in (("plain", {}), ("compiled", COMPILED))
    }
    result = workspace / "counted.json"
    done = trainers.call(train_counted, configs, result)
    assert done.wait() == 0, done.log[-4000:]
    seen: dict[str, dict[str, Any]] = json.loads(result.read_text())
    return seen


def test_compiled_layers_learn_the_same(counted: dict[str, dict[str, Any]]) -> None:
    plain, compiled = (counted[name] for name in ("plain", "compiled"))
    assert len(plain["losses"]) == STEPS
    assert [loss for _, loss in compiled["losses"]] == pytest.approx([loss for _, loss in plain["losses"]], rel=1e-5)
    assert compiled["eval_loss"] == pytest.approx(plain["eval_loss"], rel=1e-5)


def test_all_layers_and_lengths_share_their_graphs(counted: dict[str, dict[str, Any]]) -> None:
    """One for batches with a mask and one for those without; and one of the check before. None is in parts."""
    assert counted["plain"]["graphs"] == 0
    assert 0 < counted["compiled"]["graphs"] <= 3
    assert counted["compiled"]["breaks"] == []


def test_a_stopped_run_goes_on_to_the_last_bit(trainers: Trainers, workspace: Path) -> None:
    """With dropout, packed, on a base in 4 bits: the next pod compiles anew."""
    training = {"maxSteps": 8, "evalSteps": 100, "checkpoint": {"everySteps": 100}, **COMPILED}
    configs = {"qlora": make_config(workspace, "compiled-stopped", training=training, evaluation=QUIET)}
    result = workspace / "compiled-stopped.json"
    done = trainers.call(train_with_and_without_a_stop, configs, 4, result)
    assert done.wait() == 0, done.log[-4000:]
    seen = json.loads(result.read_text())["qlora"]
    assert seen["stopped_at"] == 4
    assert seen["resumed"] == seen["whole"]


@pytest.mark.parametrize("sharding", ["none", "full"])
def test_two_processes_learn_what_one_learns(sharding: str, trainers: Trainers, workspace: Path) -> None:
    """Whether each holds all of the base, or gathers a layer when it is passed through. The one is not compiled."""
    curves = []
    for size in (1, 2):
        name = f"compiled-{sharding}-{size}"
        training = {"sharding": sharding, **COMPILED} if size > 1 else {}
        group = start(trainers, workspace, name, build_case(**training), size)
        assert end(group) == [0] * size, "\n".join(process.log for process in group)
        assert ("layers are compiled" in group[0].log) is (size > 1)
        curves.append([line["loss"] for line in read_curve(workspace, name) if "loss" in line])
    assert curves[1] == pytest.approx(curves[0], rel=1e-4)


def test_a_run_that_steps_down_compiles_anew(trainers: Trainers, workspace: Path) -> None:
    """Rows alone take another graph than batches, within the same process."""
    training = {**TRAINING, "perDeviceBatchSize": 2, "gradientCheckpointing": False, **COMPILED}
    config = make_config(workspace, "compiled-memory", method=EXACT, training=training, evaluation=QUIET)
    running = trainers.call(fail_in_steps, config, [{"step": 3, "kind": "memory", "above": 1}])
    assert running.wait() == 0, running.log
    assert running.summary.progress is not None
    assert running.summary.progress.adjustments == ["step 3: out of memory; batch 2 -> 1, accumulation 2 -> 4; back to step 0"]
    assert "layers are compiled" in running.log


def test_without_a_compiler_a_run_ends_before_anything_is_fetched(trainers: Trainers, workspace: Path) -> None:
    config = make_config(workspace, "no-compiler", model={"uri": f"file://{workspace}/missing"}, training=COMPILED)
    environ = {"PATH": "", "TORCHINDUCTOR_CACHE_DIR": str(workspace / "no-compiler"), "CXX": "c++-of-nobody"}
    code, process = trainers.run(config, environ)
    assert code == ExitCode.CONFIG_INVALID, process.log
    assert "training.compile: nothing can be compiled for cpu in this image" in process.summary.message
    assert "set training.compile to false" in process.summary.message


def test_a_compiler_that_fails_is_told_of_as_a_setting(trainers: Trainers, tmp_path: Path) -> None:
    """But not where memory or the disk is used up, for which there is other help."""
    explained = trainers.call(explain_failures, tmp_path / "seen.json")
    assert explained.wait() == 0, explained.log
    seen = json.loads((tmp_path / "seen.json").read_text())
    told = seen.pop("unknown")
    assert told == "training.compile: a layer of this model can't be compiled (no such kernel); set training.compile to false"
    assert seen == {"memory": None, "disk": None, "no compiler's": None}
