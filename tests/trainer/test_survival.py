"""Runs that get over what goes wrong, end as if it had not been there, or say why they can't go on."""

import json
import os
import random
import re
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from finetune_api.exit_codes import ExitCode
from tests.support.trainer_process import RunningTrainer, Trainers
from tests.support.trainer_workspace import fail_in_steps, make_config
from tests.trainer.conftest import Finished
from tests.trainer.test_resume import compare

pytestmark = pytest.mark.torch

LENGTH = 14


def start_failing(trainers: Trainers, config: dict[str, Any], faults: list[dict[str, Any]]) -> Any:
    return trainers.call(fail_in_steps, config, faults)


def finish(trainers: Trainers, workspace: Path, name: str, config: dict[str, Any], faults: list[dict[str, Any]]) -> Finished:
    running = start_failing(trainers, config, faults)
    code = running.wait()
    assert code == 0, running.log
    return Finished(code, running, workspace / "out" / name)


def test_out_of_memory_steps_down_and_learns_the_same(uninterrupted: Finished, trainers: Trainers, workspace: Path) -> None:
    """A batch of two does not fit from step 6 on: the run goes back to step 4, with one example at a time."""
    config = make_config(workspace, "memory")
    run = finish(trainers, workspace, "memory", config, [{"step": 6, "kind": "memory", "above": 1}])
    progress = run.process.summary.progress
    assert progress is not None
    assert progress.adjustments == ["step 6: out of memory; batch 2 -> 1, accumulation 2 -> 4; back to step 4"]
    assert [step for step, _ in run.losses] == list(range(1, LENGTH + 1))
    assert run.losses[:4] == uninterrupted.losses[:4]
    # dropout draws its numbers for other shapes, so that the rest is not equal to the last bit
    assert [loss for _, loss in run.losses] == pytest.approx([loss for _, loss in uninterrupted.losses], rel=0.02)
    tokens = [[line["num_tokens"] for line in each.lines if "loss" in line] for each in (run, uninterrupted)]
    assert tokens[0] == tokens[1]


def test_out_of_memory_with_nothing_left_to_give_ends_the_run(trainers: Trainers, workspace: Path) -> None:
    running = start_failing(trainers, make_config(workspace, "no-memory"), [{"step": 2, "kind": "memory", "above": 0}])
    assert running.wait() == ExitCode.OUT_OF_MEMORY, running.log
    assert "perDeviceBatchSize" in running.summary.message
    assert running.summary.progress is not None
    assert running.summary.progress.adjustments == ["step 2: out of memory; batch 2 -> 1, accumulation 2 -> 4; back to step 0"]


def test_out_of_memory_ends_the_run_where_the_spec_says_so(trainers: Trainers, workspace: Path) -> None:
    config = make_config(workspace, "strict-memory", training={"onOutOfMemory": "fail"})
    running = start_failing(trainers, config, [{"step": 2, "kind": "memory", "above": 1}])
    assert running.wait() == ExitCode.OUT_OF_MEMORY, running.log


def test_a_diverged_run_goes_back_and_on_with_a_lower_rate(uninterrupted: Finished, trainers: Trainers, workspace: Path) -> None:
    """A NaN at step 7, and once more after the return: the third time, with a quarter of the rate, all goes well."""
    training = {"divergence": {"action": "rollBack"}, "lrScheduler": "constant", "warmupRatio": 0}
    config = make_config(workspace, "diverging", training=training)
    run = finish(trainers, workspace, "diverging", config, [{"step": 7, "kind": "nan", "times": 2}])
    progress = run.process.summary.progress
    assert progress is not None
    assert progress.adjustments == [
        "step 7: the loss diverged; learning rate 0.0025; back to step 4",
        "step 7: the loss diverged; learning rate 0.00125; back to step 4",
    ]
    rates = {line["step"]: line["learning_rate"] for line in run.lines if "loss" in line}
    assert [rates[step] for step in (4, 5, 14)] == pytest.approx([5e-3, 1.25e-3, 1.25e-3])
    assert len(run.losses) == len(uninterrupted.losses)
    assert [point.step for point in run.process.summary.metrics.history] == list(range(1, LENGTH + 1))


def test_a_run_that_keeps_diverging_fails(trainers: Trainers, workspace: Path) -> None:
    training = {"divergence": {"action": "rollBack", "maxRollBacks": 1}}
    running = start_failing(trainers, make_config(workspace, "hopeless", training=training), [{"step": 2, "kind": "nan", "times": 9}])
    assert running.wait() == ExitCode.LOSS_DIVERGED, running.log
    assert "the loss is nan at step 2" in running.summary.message


def test_leaping_losses_count_as_divergence(trainers: Trainers, workspace: Path) -> None:
    config = make_config(workspace, "leaping", training={"divergence": {"spikeFactor": 2}, "checkpoint": {"everySteps": 1}})
    running = start_failing(trainers, config, [{"step": step, "kind": "spike", "times": 9} for step in (10, 11, 12)])
    assert running.wait() == ExitCode.LOSS_DIVERGED, running.log
    assert "spikeFactor" in running.summary.message
    assert running.summary.checkpoint_step is not None
    assert running.summary.checkpoint_step <= 9, "a checkpoint was made amid the spikes"


def test_early_stop_and_best_adapter(trainers: Trainers, workspace: Path) -> None:
    """Held-out text that is nothing like the training data gets worse: the run stops, and publishes what was best."""
    rows = [json.loads(line) for line in (workspace / "train.jsonl").read_text().splitlines()]
    (workspace / "unlike.jsonl").write_text("".join(json.dumps({**row, "completion": "ÄÖÜ §§ 12345 {}[]"}) + "\n" for row in rows[:6]))
    dataset = {"uri": f"file://{workspace}/train.jsonl", "eval": {"uri": f"file://{workspace}/unlike.jsonl"}}
    training = {
        "maxSteps": 60,
        "evalSteps": 2,
        "learningRate": 3e-2,
        "earlyStopping": {"patience": 2},
        "checkpoint": {"everySteps": 100, "publishBest": True},
    }
    config = make_config(workspace, "early-stop", dataset=dataset, training=training)
    code, process = trainers.run(config)
    assert code == 0, process.log
    run = Finished(code, process, workspace / "out" / "early-stop")
    losses = {line["step"]: line["eval_loss"] for line in run.lines if line.get("eval_loss") is not None and line["step"]}
    best = min(losses, key=lambda step: losses[step])
    summary = process.summary
    assert summary.progress is not None
    assert summary.progress.step < 60
    assert summary.progress.percentage == 100
    assert summary.progress.step == best + 4
    assert summary.metrics.best_step == best
    assert summary.metrics.eval_loss == pytest.approx(losses[best], rel=1e-4)
    assert any("stopped early" in words for words in summary.progress.adjustments or [])


@pytest.fixture(scope="module")
def kills() -> Iterator[list[tuple[int, list[str]]]]:
    """What the runs below went through; written to the file that `FINETUNE_TEST_KILLS_REPORT` names."""
    records: list[tuple[int, list[str]]] = []
    yield records
    if report := os.environ.get("FINETUNE_TEST_KILLS_REPORT"):
        rows = "".join(f"| {seed} | {'; '.join(moments)} | yes |\n" for seed, moments in records)
        Path(report).write_text(REPORT.format(count=len(records), steps=LENGTH, rows=rows), encoding="utf-8")


@pytest.mark.parametrize("seed", range(int(os.environ.get("FINETUNE_TEST_KILLS", "2"))))
def test_killed_at_random_moments_every_run_ends_as_one_that_was_not(
    seed: int, kills: list[tuple[int, list[str]]], uninterrupted: Finished, trainers: Trainers, workspace: Path
) -> None:
    """SIGKILL at random shares of a whole run's processor time: while loading, in a step, while a checkpoint is written or uploaded."""
    name = f"random-{seed}"
    config = make_config(workspace, name, training={"checkpoint": {"everySteps": 2}})
    generator = random.Random(seed)  # noqa: S311  moments, no secret
    whole, moments = uninterrupted.process.cpu_seconds, []
    assert whole > 0
    for _ in range(2):
        running, share = trainers.start(config), generator.uniform(0.05, 0.95)
        while running.process.is_alive() and running.observe_cpu() < share * whole:
            running.process.join(0.01)
        if running.process.is_alive():
            running.send(signal.SIGKILL)
        moments.append(f"{share:.0%}, {describe_end(running.wait(), running)}")
        shutil.rmtree(workspace / "work" / name, ignore_errors=True)  # the next pod has an empty disk
    code, process = trainers.run(config)
    assert code == 0, process.log
    run = Finished(code, process, workspace / "out" / name)
    if "published its adapter already" in process.log:  # killed after its work was done: there is a summary to write, and no more
        assert run.losses == uninterrupted.losses
        files = [each.adapter / "adapter_model.safetensors" for each in (run, uninterrupted)]
        assert files[0].read_bytes() == files[1].read_bytes()
        assert process.summary.metrics.eval_loss == uninterrupted.process.summary.metrics.eval_loss
    else:
        compare(run, uninterrupted)
    kills.append((seed, moments))


def describe_end(code: int, running: RunningTrainer) -> str:
    if code == 0:
        return "done before"
    if "/adapter: " in running.log and "published" in running.log.rpartition("/adapter: ")[0].rpartition("\n")[2]:
        return "killed after the adapter was published"
    published = re.findall(r"step-(\d{8}): ", running.log)
    return f"killed after the checkpoint of step {int(published[-1])}" if published else "killed before the first checkpoint"


REPORT = """<!-- Generated by `make survival`. Do not edit. -->
# Killed at random moments

Each of {count} runs of {steps} steps (QLoRA on the processor, a checkpoint every 2 steps) was killed twice by SIGKILL, at random shares of
a whole run's processor time, lost its local disk each time, and was resumed to the end. Then its losses of every step, its tokens, its
held-out loss and the bytes of its adapter were compared with those of a run that was never interrupted.

| seed | killed at | equal |
| --- | --- | --- |
{rows}"""
