"""Stopped and killed runs go on as if nothing had happened."""

import json
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from finetune_api.exit_codes import ExitCode
from tests.support.resume_checks import train_with_and_without_a_stop
from tests.support.trainer_process import RunningTrainer, Trainers
from tests.support.trainer_workspace import die_while_publishing, make_config, stall_while_loading
from tests.trainer.conftest import Finished

pytestmark = pytest.mark.torch


def checkpoint(workspace: Path, name: str, step: int) -> Path:
    return workspace / "out" / name / "checkpoints" / f"uid-{name}" / f"step-{step:08d}" / "manifest.json"


def wait_for_checkpoint(running: RunningTrainer, workspace: Path, name: str, step: int) -> None:
    running.wait_for(checkpoint(workspace, name, step).exists, f"checkpoint of step {step}")


def keep_tokenised(config: dict[str, Any]) -> dict[str, Any]:
    return {**config, "dataset": {**config["dataset"], "keepTokenised": True}}


def forget_local_files(workspace: Path, name: str) -> None:
    """The next pod has an empty disk."""
    shutil.rmtree(workspace / "work" / name)


@pytest.fixture(scope="module")
def interrupted(trainers: Trainers, workspace: Path, dead_receiver: dict[str, Any]) -> RunningTrainer:
    """A run stopped by SIGTERM in its midst. It asked for a GPU, trains on the processor, nobody takes its reports, and it keeps its
    tokenised data.
    """
    name = "interrupted"
    config = make_config(workspace, name, reporting=dead_receiver, device={"gpus": 1, "allowCpu": True})
    gate = trainers.make_gate(step=6)
    running = trainers.start(keep_tokenised(config), {"CUDA_VISIBLE_DEVICES": ""}, gate)
    wait_for_checkpoint(running, workspace, name, 4)
    kept = workspace / "out" / name / "checkpoints" / f"uid-{name}"
    running.wait_for(lambda: any(kept.glob("tokens-*/manifest.json")), "the tokenised data in the store")
    running.send(signal.SIGTERM)
    running.send(signal.SIGTERM)
    gate.open()
    return running


def test_sigterm_saves_and_exits(interrupted: RunningTrainer, workspace: Path) -> None:
    assert interrupted.wait() == ExitCode.INTERRUPTED, interrupted.log
    summary = interrupted.summary
    assert (summary.outcome, summary.reason) == ("interrupted", "Interrupted")
    assert summary.progress is not None
    assert 4 <= summary.progress.step < 14
    assert summary.checkpoint_step == summary.progress.step
    assert checkpoint(workspace, "interrupted", summary.progress.step).exists()
    assert summary.artifacts == []
    assert not (workspace / "out" / "interrupted" / "adapter").exists()
    assert summary.device == "cpu (simulated GPU)"
    manifest = json.loads(checkpoint(workspace, "interrupted", summary.progress.step).read_text())
    assert not [file["path"] for file in manifest["files"] if file["path"].startswith("training_args")]


def test_resumed_run_equals_an_uninterrupted_one(
    interrupted: RunningTrainer, uninterrupted: Finished, trainers: Trainers, workspace: Path
) -> None:
    assert interrupted.wait() == ExitCode.INTERRUPTED
    stopped_at = interrupted.summary.checkpoint_step
    forget_local_files(workspace, "interrupted")
    code, process = trainers.run(keep_tokenised(make_config(workspace, "interrupted")))
    assert code == 0, process.log
    assert "the data were tokenised by an earlier pod: 60 examples to train on" in process.log
    assert f"going on from the checkpoint of step {stopped_at} of 14" in process.log
    compare(Finished(code, process, workspace / "out" / "interrupted"), uninterrupted)
    assert process.summary.metrics.base_eval_loss == uninterrupted.process.summary.metrics.base_eval_loss
    assert not (workspace / "out" / "interrupted" / "checkpoints").exists()


def test_killed_run_goes_on_from_the_newest_whole_checkpoint(uninterrupted: Finished, trainers: Trainers, workspace: Path) -> None:
    name = "killed"
    config = make_config(workspace, name)
    running = trainers.start(config, gate=trainers.make_gate(step=10))
    wait_for_checkpoint(running, workspace, name, 8)
    running.send(signal.SIGKILL)
    assert running.wait() == 128 + signal.SIGKILL
    # What it was writing when it died, and what another run left: neither is ever resumed from
    whole = checkpoint(workspace, name, 8).parent
    for step in (12, 13):
        shutil.copytree(whole, whole.with_name(f"step-{step:08d}"))
    (whole.with_name("step-00000012") / "manifest.json").unlink()
    forget_local_files(workspace, name)
    code, process = trainers.run(config)
    assert code == 0, process.log
    assert "going on from the checkpoint of step 8 of 14" in process.log
    compare(Finished(code, process, workspace / "out" / name), uninterrupted)


def test_run_killed_while_publishing_trains_no_step_again(uninterrupted: Finished, trainers: Trainers, workspace: Path) -> None:
    name = "unpublished"
    config = make_config(workspace, name)
    assert trainers.call(die_while_publishing, config).wait() == 128 + signal.SIGKILL
    assert checkpoint(workspace, name, 14).exists()
    forget_local_files(workspace, name)
    code, process = trainers.run(config)
    assert code == 0, process.log
    assert "going on from the checkpoint of step 14 of 14" in process.log
    assert "learning rate" not in process.log, "a step was trained again"
    compare(Finished(code, process, workspace / "out" / name), uninterrupted)


def test_finished_run_ends_at_once_with_its_artifact(uninterrupted: Finished, trainers: Trainers, workspace: Path) -> None:
    """The pod was lost after publishing, before anyone saw its summary."""
    before = (uninterrupted.adapter / "manifest.json").read_bytes()
    code, process = trainers.run(make_config(workspace, "uninterrupted"))
    assert code == 0, process.log
    first, again = uninterrupted.process.summary, process.summary
    assert "published its adapter already" in process.log
    assert again.artifacts == first.artifacts
    assert (again.outcome, again.metrics.eval_loss, again.metrics.loss) == ("completed", first.metrics.eval_loss, first.metrics.loss)
    assert (uninterrupted.adapter / "manifest.json").read_bytes() == before


def test_sigterm_while_loading_exits_at_once(trainers: Trainers, workspace: Path) -> None:
    running = trainers.call(stall_while_loading, make_config(workspace, "early"))
    running.wait_for(lambda: "stalled" in running.log, "stall")
    running.send(signal.SIGTERM)
    assert running.wait() == ExitCode.INTERRUPTED, running.log
    assert running.summary.outcome == "interrupted"
    assert running.summary.checkpoint_step is None
    assert not (workspace / "out" / "early").exists()


def test_changed_data_are_not_mixed_into_a_run(trainers: Trainers, workspace: Path) -> None:
    name = "changed"
    data = workspace / "changing.jsonl"
    shutil.copy(workspace / "train.jsonl", data)
    source = {"uri": f"file://{data}", "evalFraction": 0}
    config = make_config(workspace, name, dataset=source, training={"checkpoint": {"everySteps": 1}})
    gate = trainers.make_gate(step=4)
    running = trainers.start(config, gate=gate)
    wait_for_checkpoint(running, workspace, name, 2)
    running.send(signal.SIGTERM)
    gate.open()
    assert running.wait() == ExitCode.INTERRUPTED
    with data.open("a") as file:
        file.write(json.dumps({"prompt": "new\n", "completion": "row"}) + "\n")
    code, process = trainers.run(config)
    assert code == ExitCode.DATA_INVALID, process.log
    assert "the dataset changed since the checkpoint of step" in process.summary.message


ADAPTERS: dict[str, dict[str, Any]] = {
    "adalora": {"type": "adalora", "r": 4},
    "ia3": {"type": "ia3"},
    "prompt-tuning": {"type": "prompt-tuning"},
    "p-tuning, mlp": {"type": "p-tuning"},
    "p-tuning, lstm": {"type": "p-tuning", "encoder": "lstm"},
    "prefix-tuning": {"type": "prefix-tuning"},
    "none": {"type": "none"},
}
STOP, LENGTH = 4, 8


@pytest.fixture(scope="module")
def with_and_without_a_stop(trainers: Trainers, workspace: Path) -> dict[str, dict[str, Any]]:
    """Runs of each adapter's own, stopped at a step at which AdaLoRA's ranks are on the move."""
    configs = {}
    for number, (name, adapter) in enumerate(ADAPTERS.items()):
        kind = "none" if name in ("none", "adalora") else "nf4"
        training = {
            "maxSteps": LENGTH,
            "learningRate": 1e-3 if name == "none" else 1e-2,
            "evalSteps": 100,
            "checkpoint": {"everySteps": 100},
            "packing": name in ("adalora", "ia3", "none"),
            "gradientCheckpointing": name != "prefix-tuning",
            "optimizer": "adamw_torch",
        }
        method = {"adapter": adapter, "quantization": {"type": kind}}
        evaluation = {"samples": {"count": 0}}
        configs[name] = make_config(workspace, f"stopped-{number}", method=method, training=training, evaluation=evaluation)
    result = workspace / "stopped.json"
    done = trainers.call(train_with_and_without_a_stop, configs, STOP, result)
    assert done.wait() == 0, done.log[-4000:]
    seen: dict[str, dict[str, Any]] = json.loads(result.read_text())
    return seen


@pytest.mark.parametrize("name", ADAPTERS)
def test_every_adapter_goes_on_to_the_last_bit(name: str, with_and_without_a_stop: dict[str, dict[str, Any]]) -> None:
    seen = with_and_without_a_stop[name]
    assert seen["stopped_at"] == STOP
    assert seen["resumed"] == seen["whole"]
    assert len(seen["whole"]["losses"]) == LENGTH


def compare(resumed: Finished, whole: Finished) -> None:
    assert resumed.losses == whole.losses
    ours, theirs = ((run.adapter / "adapter_model.safetensors").read_bytes() for run in (resumed, whole))
    assert ours == theirs
    assert [line["num_tokens"] for line in resumed.lines if "loss" in line] == [
        line["num_tokens"] for line in whole.lines if "loss" in line
    ]
    assert resumed.process.summary.metrics.tokens_seen == whole.process.summary.metrics.tokens_seen
    assert resumed.process.summary.metrics.eval_loss == whole.process.summary.metrics.eval_loss
    assert resumed.process.summary.metrics.history == whole.process.summary.metrics.history
