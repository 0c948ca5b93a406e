"""Reports: what the operator gets, and that training never waits for it."""

import signal
import time
from pathlib import Path
from typing import Any

import pytest

from finetune_api.exit_codes import ExitCode
from finetune_api.report import JobReference, TrainerReport
from finetune_api.trainer_config import ReportingConfig
from finetune_trainer.reporting import Reporter
from tests.support.report_receiver import ReportReceiver, run_receiver
from tests.support.trainer_process import ENDLESS, Trainers
from tests.support.trainer_workspace import make_config
from tests.trainer.conftest import Finished

pytestmark = pytest.mark.torch  # the trainer's extra
JOB = JobReference(namespace="n", name="j", uid="u")


def build(sequence: int) -> TrainerReport:
    return TrainerReport(job=JOB, sequence=sequence, stage="training")


def test_a_run_reports_from_loading_to_publishing(uninterrupted: Finished, receiver: ReportReceiver) -> None:
    reports = [report for report in receiver.reports if report.job.name == "uninterrupted"]
    assert uninterrupted.code == 0
    numbers = [report.sequence for report in reports]
    assert numbers == sorted(set(numbers))
    assert reports[0].stage == "loading"
    assert reports[-1].stage == "publishing"
    assert set(receiver.tokens) == {"Bearer token-1"}
    steps = [report.progress.step for report in reports if report.progress is not None]
    assert steps == sorted(steps)
    last = reports[-1]
    assert last.progress is not None
    assert (last.progress.percentage, last.progress.step) == (100, 14)
    assert last.dataset is not None
    assert last.dataset.examples == 60
    assert last.device == "cpu"
    curves = last.metrics.curves
    assert curves is not None
    assert curves.steps[-1] == 14
    lengths = [len(each) for each in (curves.learning_rate, curves.grad_norm, curves.tokens_per_second, curves.memory_bytes)]
    assert set(lengths) == {len(curves.steps)}, "each figure has its curve"
    assert last.metrics.samples == [], "none is shown unless the run asks for it"
    assert last.metrics.tokens_per_second is not None
    assert last.metrics.tokens_per_second > 0


def test_progress_comes_while_it_trains(receiver: ReportReceiver, trainers: Trainers, workspace: Path) -> None:
    """The run goes on until it has been seen, on whatever machine: nothing but its end would end it."""
    config = make_config(workspace, "watched", reporting=receiver.build_config(interval=0.05), training={"maxSteps": ENDLESS})
    running = trainers.start(config)

    def steps() -> set[int]:
        return {report.progress.step for report in receiver.reports if report.job.name == "watched" and report.progress is not None}

    running.wait_for(lambda: len(steps()) > 2, "progress in three reports")
    running.send(signal.SIGTERM)
    assert running.wait() == ExitCode.INTERRUPTED, running.log
    assert max(steps()) < ENDLESS


def test_token_is_read_anew(tmp_path: Path) -> None:
    with run_receiver(tmp_path) as receiver, Reporter(config(receiver), build) as reporter:
        reporter.notify()
        wait_until(lambda: len(receiver.tokens) == 1)
        receiver.token_file.write_text("token-2")
        reporter.notify()
        wait_until(lambda: len(receiver.tokens) == 2)
    assert receiver.tokens[:2] == ["Bearer token-1", "Bearer token-2"]


def test_at_most_one_report_in_an_interval(tmp_path: Path) -> None:
    with run_receiver(tmp_path) as receiver:
        begun = time.monotonic()
        with Reporter(config(receiver, interval=0.3), build) as reporter:
            while time.monotonic() < begun + 1:
                reporter.notify()
                time.sleep(0.001)
        spent = time.monotonic() - begun
    assert 2 <= len(receiver.reports) <= spent / 0.3 + 2  # the first at once, and the last at the end


def test_silent_receiver_holds_nobody_up(tmp_path: Path) -> None:
    with run_receiver(tmp_path) as receiver:
        receiver.proceed.clear()
        with Reporter(config(receiver), build) as reporter:
            begun = time.monotonic()
            for _ in range(1000):
                reporter.notify()
            assert time.monotonic() - begun < 30.0, "a thousand answers were waited for"
            closing = time.monotonic()
        assert time.monotonic() - closing < 30.0, "the last answer was waited for"
    assert reporter.sent == 0


def test_refusals_are_dropped(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with run_receiver(tmp_path) as receiver:
        receiver.status = 403
        with Reporter(config(receiver), build) as reporter:
            for _ in range(3):
                count = len(receiver.reports)
                reporter.notify()
                wait_until(lambda count=count: len(receiver.reports) > count)
    assert reporter.sent == 0
    assert caplog.text.count("the receiver answered 403") == 1


def test_strangers_certificate_is_not_trusted(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    with run_receiver(tmp_path) as receiver, run_receiver(tmp_path / "other") as other:
        trusting = config(receiver).model_copy(update={"ca_certificate": other.authority})
        with Reporter(trusting, build) as reporter:
            reporter.notify()
        assert receiver.reports == []
        assert reporter.sent == 0


def config(receiver: ReportReceiver, interval: float = 0.01) -> ReportingConfig:
    return ReportingConfig.model_validate(receiver.build_config(interval))


def wait_until(condition: Any) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)
