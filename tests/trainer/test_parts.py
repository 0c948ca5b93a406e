"""The small parts around a run, without torch."""

import errno
import itertools
import json
import math
import signal
import threading
from pathlib import Path
from typing import Any

import pytest

from finetune_api.exit_codes import ExitCode
from finetune_api.names import HISTORY_MAX_POINTS, REPORT_MAX_BYTES
from finetune_api.report import JobReference
from finetune_api.summary import decode_summary
from finetune_trainer.artifacts import CheckpointStore, ManifestFields
from finetune_trainer.configuration import read_config
from finetune_trainer.ending import build_failure, classify_exception, write_summary
from finetune_trainer.errors import ConfigInvalid, DataInvalid, StorageFailed
from finetune_trainer.interruption import Interruption
from finetune_trainer.reporting.curve import LossCurve
from finetune_trainer.run.checkpointing import MAX_FAILURES, CheckpointUploader
from finetune_trainer.run.progress import RunProgress, SpeedMeter
from finetune_trainer.storage import RetryPolicy, open_store
from tests.support.trainer_workspace import make_config

pytestmark = pytest.mark.torch  # nothing here loads it, but the storage comes with the trainer's extra
JOB = JobReference(namespace="team-a", name="job", uid="uid-1")


class TestEnding:
    @pytest.mark.parametrize(
        ("error", "code", "words"),
        [
            (DataInvalid("no rows"), ExitCode.DATA_INVALID, "no rows"),
            (MemoryError(), ExitCode.OUT_OF_MEMORY, "MemoryError"),
            (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), ExitCode.OUT_OF_MEMORY, "2 GiB"),
            (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 8 bytes"), ExitCode.OUT_OF_MEMORY, "8 bytes"),
            (OSError(errno.ENOSPC, "No space left on device"), ExitCode.STORAGE_FAILED, "ephemeralStorage"),
            (RuntimeError("PytorchStreamWriter failed: No space left on device"), ExitCode.STORAGE_FAILED, "ephemeralStorage"),
            (
                RuntimeError("[enforce fail at inline_container.cc:671] . unexpected pos 64 vs 0"),
                ExitCode.STORAGE_FAILED,
                "ephemeralStorage",
            ),
            (ZeroDivisionError("x"), ExitCode.CRASHED, "ZeroDivisionError: x"),
            (KeyboardInterrupt(), ExitCode.CRASHED, "KeyboardInterrupt"),
        ],
    )
    def test_every_exception_has_a_code(self, error: BaseException, code: ExitCode, words: str) -> None:
        got, message = classify_exception(error)
        assert got == code
        assert words in message

    def test_cause_counts(self) -> None:
        error = RuntimeError("while saving")
        error.__cause__ = StorageFailed("the bucket is gone")
        assert classify_exception(error) == (ExitCode.STORAGE_FAILED, "the bucket is gone")

    def test_long_message_fits(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        file = tmp_path / "termination"
        file.write_text("older and longer" * 1000)
        monkeypatch.setenv("FINETUNE_TERMINATION_MESSAGE_PATH", str(file))
        write_summary(build_failure(ExitCode.CRASHED, "ü" * 10_000))
        assert file.stat().st_size <= 4096
        summary = decode_summary(file.read_text())
        assert summary is not None
        assert summary.reason == "TrainerCrashed"

    def test_unwritable_file_is_no_further_failure(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("FINETUNE_TERMINATION_MESSAGE_PATH", str(tmp_path / "missing" / "file"))
        write_summary(build_failure(ExitCode.CRASHED, "x"))


class TestConfiguration:
    def test_environment_and_files_say_the_same(self, tmp_path: Path) -> None:
        config = make_config(tmp_path, "c")
        for name in ("c.json", "c.yaml"):
            (tmp_path / name).write_text(json.dumps(config))
        expected = read_config(None, {"FINETUNE_CONFIG": json.dumps(config)})
        assert read_config(tmp_path / "c.json", {}) == read_config(tmp_path / "c.yaml", {}) == expected

    @pytest.mark.parametrize(
        ("text", "words"),
        [("{", "not a valid"), ("", "no configuration"), ('{"job": {"name": 3}}', "job.name"), ("[]", "the whole")],
    )
    def test_faults_are_named(self, text: str, words: str) -> None:
        with pytest.raises(ConfigInvalid, match=words):
            read_config(None, {"FINETUNE_CONFIG": text})

    def test_missing_file(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigInvalid, match="can't be read"):
            read_config(tmp_path / "missing.yaml", {})


class TestInterruption:
    def test_is_obeyed_at_once_until_deferred(self) -> None:
        left: list[int] = []
        interruption = Interruption()
        interruption.leave_by(lambda: left.append(1))
        interruption.request()
        assert left == [1]

    def test_deferred_request_is_only_noted(self) -> None:
        left: list[int] = []
        interruption = Interruption()
        interruption.leave_by(lambda: left.append(1))
        interruption.defer()
        interruption.request()
        assert (left, interruption.requested) == ([], True)

    def test_request_before_anyone_listens_is_kept(self) -> None:
        left: list[int] = []
        interruption = Interruption()
        interruption.request()
        interruption.leave_by(lambda: left.append(1))
        assert left == [1]

    def test_signals(self) -> None:
        before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            interruption = Interruption()
            interruption.install()
            interruption.defer()
            signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGTERM)
            assert interruption.requested
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


class TestCurve:
    @pytest.mark.parametrize("count", [0, 1, 2, 63, 64, 65, 127, 128, 129, 1000, 100_001])
    def test_is_thinned_over_the_whole_run(self, count: int) -> None:
        curve = LossCurve()
        for step in range(1, count + 1):
            curve.add(step, 1 / step)
        points = curve.thin()
        steps = [point.step for point in points]
        assert len(points) == min(count, len(points)) <= HISTORY_MAX_POINTS
        assert steps == sorted(set(steps))
        if count:
            assert (steps[0], steps[-1]) == (1, count)
            gaps = [after - before for before, after in itertools.pairwise(steps)]
            assert max(gaps, default=1) <= max(1, 4 * count / HISTORY_MAX_POINTS)
        if 0 < count <= HISTORY_MAX_POINTS:
            assert len(points) == count


class TestSpeed:
    def test_first_step_is_left_out_once_others_are_known(self) -> None:
        meter = SpeedMeter()
        assert (meter.tokens_per_second, meter.estimate_remaining(10)) == (None, None)
        now = 0.0
        for duration in (60.0, 1.0, 1.0, 1.0):
            meter.begin_step(now)
            now += duration
            meter.end_step(now, 100)
        assert meter.tokens_per_second == pytest.approx(100)
        assert meter.estimate_remaining(10) == pytest.approx(10)

    def test_evaluation_lengthens_the_rest_but_does_not_slow_training(self) -> None:
        meter = SpeedMeter()
        now = 0.0
        for _ in range(20):
            meter.begin_step(now)
            meter.end_step(now + 1, 50)
            now += 2
        assert meter.tokens_per_second == pytest.approx(50)
        assert meter.estimate_remaining(10) == pytest.approx(20, rel=0.06)


class TestProgress:
    def test_numbers_that_are_not_finite_are_left_out(self) -> None:
        progress = RunProgress(JOB)
        progress.total_steps = 3
        progress.end_step(2, 0.5, 100, None)
        progress.record(2, {"loss": math.nan, "grad_norm": math.inf, "learning_rate": 1e-3})
        report = progress.build_report(1)
        assert report.metrics.loss is None
        assert report.metrics.grad_norm is None
        assert report.metrics.learning_rate == 1e-3
        assert report.metrics.history == []
        assert report.progress is not None
        assert report.progress.percentage == 66

    def test_report_always_fits(self) -> None:
        progress = RunProgress(JobReference(namespace="n" * 63, name="j" * 253, uid="u" * 64))
        progress.device, progress.total_steps = "d" * 128, 10_000_000
        for step in range(1, 2000):
            progress.end_step(step, step / 3, step * 2**30, 2**50)
            progress.record(step, {"loss": -123456.123456789 / step, "learning_rate": 1e-9 / 3, "grad_norm": 1e14 / 3})
        assert len(progress.build_report(2**40).model_dump_json(exclude_none=True)) < REPORT_MAX_BYTES


class TestUploader:
    def test_newest_waits_and_those_between_are_dropped(self, tmp_path: Path) -> None:
        store = make_store(tmp_path)
        done: list[int] = []
        slow = Gated(store, "uid-1")
        uploader = CheckpointUploader(slow, 2, done.append)
        folders = {step: make_folder(tmp_path, step) for step in (1, 2, 3)}
        uploader.submit(folders[1], fields(1))
        assert slow.reached.wait(20)
        for step in (2, 3):
            uploader.submit(folders[step], fields(step))
        assert not folders[2].exists()
        slow.gate.set()
        wait_until_done(done, 2)
        uploader.drain()
        assert done == [1, 3]
        assert CheckpointStore(store, "uid-1").list_steps() == [3, 1]
        assert not folders[1].exists()

    def test_the_last_one_is_published_before_the_end_even_if_it_still_waits(self, tmp_path: Path) -> None:
        store = make_store(tmp_path)
        done: list[int] = []
        slow = Gated(store, "uid-1")
        uploader = CheckpointUploader(slow, 2, done.append)
        uploader.submit(make_folder(tmp_path, 1), fields(1))
        assert slow.reached.wait(20)
        uploader.submit(make_folder(tmp_path, 2), fields(2))
        threading.Timer(0.2, slow.gate.set).start()
        uploader.drain()
        assert done == [1, 2]

    def test_what_has_not_begun_in_time_is_dropped(self, tmp_path: Path) -> None:
        done: list[int] = []
        slow = Gated(make_store(tmp_path), "uid-1")
        uploader = CheckpointUploader(slow, 2, done.append)
        uploader.submit(make_folder(tmp_path, 1), fields(1))
        assert slow.reached.wait(20)
        uploader.submit(make_folder(tmp_path, 2), fields(2))
        uploader.drain(0.05)
        slow.gate.set()
        wait_until_done(done, 1)
        uploader.drain()
        assert done == [1]

    def test_older_ones_go(self, tmp_path: Path) -> None:
        store = CheckpointStore(make_store(tmp_path), "uid-1")
        uploader = CheckpointUploader(store, 2, lambda _: None)
        for step in (1, 2, 3, 4):
            uploader.publish_now(make_folder(tmp_path, step), fields(step))
        assert store.list_steps() == [4, 3]

    def test_run_fails_only_if_the_store_keeps_failing(self, tmp_path: Path) -> None:
        class Failing(CheckpointStore):
            def publish(self, folder: Path, fields: ManifestFields, **options: Any) -> Any:
                raise StorageFailed(f"no room for {folder} {fields} {options}")

        done: list[int] = []
        uploader = CheckpointUploader(Failing(make_store(tmp_path), "uid-1"), 2, done.append)
        for step in range(1, MAX_FAILURES + 1):
            uploader.raise_if_failing()
            uploader.submit(make_folder(tmp_path, step), fields(step))
            failed(uploader, step)
        with pytest.raises(StorageFailed, match="no room"):
            uploader.raise_if_failing()
        uploader.drain()
        assert done == []

    def test_last_checkpoint_is_not_lost_quietly(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        store = open_store(f"file://{tmp_path}/file/below", "output", policy=RetryPolicy(attempts=1))
        uploader = CheckpointUploader(CheckpointStore(store, "uid-1"), 2, lambda _: None)
        with pytest.raises(StorageFailed):
            uploader.publish_now(make_folder(tmp_path, 1), fields(1))


class Gated(CheckpointStore):
    """Publishes nothing before the gate is open."""

    def __init__(self, store: Any, uid: str) -> None:
        super().__init__(store, uid)
        self.gate, self.reached = threading.Event(), threading.Event()

    def publish(self, folder: Path, fields: ManifestFields, **options: Any) -> Any:
        self.reached.set()
        assert self.gate.wait(20)
        return super().publish(folder, fields, **options)


def make_store(folder: Path) -> Any:
    return open_store(f"file://{folder}/out", "output")


def make_folder(parent: Path, step: int) -> Path:
    folder = parent / f"checkpoint-{step}"
    folder.mkdir()
    (folder / "state").write_text(str(step))
    return folder


def fields(step: int) -> ManifestFields:
    return ManifestFields(
        kind="checkpoint",
        job_uid="uid-1",
        job_namespace="n",
        job_name="j",
        attempt=0,
        step=step,
        total_steps=9,
        base_model_uri="file:///m",
        versions={},
        config={},
    )


def wait_until_done(done: list[int], count: int) -> None:
    ready = threading.Event()
    for _ in range(2000):
        if len(done) >= count:
            return
        ready.wait(0.01)
    raise AssertionError(done)


def failed(uploader: CheckpointUploader, count: int) -> None:
    ready = threading.Event()
    for _ in range(2000):
        if uploader.failures >= count:
            return
        ready.wait(0.01)
    raise AssertionError(uploader.failures)
