"""When reports are written into status."""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from finetune_api.base import format_time
from finetune_api.progress import DatasetCounts, Metrics, Progress
from finetune_api.report import JobReference, TrainerReport
from finetune_operator.kube.client import FINETUNEJOBS, ApiError
from finetune_operator.kube.store import Store
from finetune_operator.reports import book as book_module
from finetune_operator.reports.book import ReportBook, build_progress_patch
from tests.support.in_memory_api import Call, InMemoryApi
from tests.support.manifests import merge
from tests.support.world import NAMESPACE, NOW, UID, at, build_finetunejob


def _report(step: int = 1, *, sequence: int | None = None, uid: str = UID, **fields: Any) -> TrainerReport:
    return TrainerReport(
        job=JobReference(namespace=NAMESPACE, name=f"run-{uid}", uid=uid),
        sequence=sequence or step,
        stage="training",
        progress=Progress(percentage=min(step, 100), step=step, total_steps=100, epoch=0.1, last_updated_time=at(-999)),
        metrics=Metrics(loss=1.0 / step),
        **fields,
    )


class Bench:
    """A report book over an API server in memory."""

    def __init__(self, uids: tuple[str, ...] = (UID,)) -> None:
        self.api, self.store = InMemoryApi(), Store()
        for uid in uids:
            self.store.put(FINETUNEJOBS, self.api.seed(FINETUNEJOBS, build_finetunejob(uid=uid, name=f"run-{uid}")))
        self.times: list[tuple[float, str]] = []
        self.book = ReportBook(self.api, self.store, lambda: NOW)
        self.api.before = self._note

    def _note(self, call: Call) -> None:
        if call.method == "PATCH":
            self.times.append((time.monotonic(), str(call.name)))

    def status(self, uid: str = UID) -> dict[str, Any]:
        return dict(self.api.objects[FINETUNEJOBS][NAMESPACE, f"run-{uid}"].get("status", {}))

    async def until(self, happens: Any) -> None:
        async with asyncio.timeout(10):
            while not happens():  # noqa: ASYNC110  # the bench is outside of what it watches
                await asyncio.sleep(0.001)


REAL_LIMITS = (book_module.PER_JOB_SECONDS, book_module.WRITES_PER_SECOND)
PER_JOB_SECONDS = 0.05
WRITES_PER_SECOND = 500.0


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The real clock, and limits a hundredth and a tenth of the real ones. All bounds below are lower ones: no busy machine breaks them."""
    monkeypatch.setattr(book_module, "PER_JOB_SECONDS", PER_JOB_SECONDS)
    monkeypatch.setattr(book_module, "WRITES_PER_SECOND", WRITES_PER_SECOND)
    monkeypatch.setattr(book_module, "RETRY_SECONDS", 0.01)


@asynccontextmanager
async def _writing(bench: Bench) -> AsyncIterator[None]:
    writer = asyncio.create_task(bench.book.write_forever())
    try:
        yield
    finally:
        writer.cancel()
        await asyncio.gather(writer, return_exceptions=True)


def test_the_limits_are_those_of_the_design() -> None:
    assert REAL_LIMITS == (5.0, 50.0)


def test_a_report_that_is_not_newer_is_not_kept() -> None:
    book = ReportBook(InMemoryApi(), Store(), lambda: NOW)
    assert book.offer(UID, "pod", _report(sequence=5))
    assert not book.offer(UID, "pod", _report(sequence=5))
    assert not book.offer(UID, "pod", _report(sequence=4))
    assert book.offer(UID, "pod", _report(sequence=6))


def test_the_next_pod_starts_counting_anew() -> None:
    book = ReportBook(InMemoryApi(), Store(), lambda: NOW)
    assert book.offer(UID, "pod-1", _report(sequence=50))
    assert book.offer(UID, "pod-2", _report(sequence=1))


async def test_a_report_is_written_at_once_and_only_the_parts_that_are_its_own() -> None:
    bench = Bench()
    async with _writing(bench):
        bench.book.offer(UID, "pod", _report(7, dataset=DatasetCounts(examples=3)))
        await bench.until(bench.status)
    (call,) = bench.api.writes
    assert set(call.body["status"]) == {"progress", "metrics", "dataset"}
    assert call.subresource == "status"
    assert call.body["metadata"].keys() == {"uid", "resourceVersion"}


async def test_a_run_is_written_at_most_every_five_seconds_and_ends_with_the_newest() -> None:
    bench = Bench()
    async with _writing(bench):
        for step in range(1, 60):
            bench.book.offer(UID, "pod", _report(step))
            await asyncio.sleep(0.002)
        await bench.until(lambda: bench.status().get("progress", {}).get("step") == 59)
    times = [at for at, _ in bench.times]
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert len(times) > 2
    assert min(gaps) >= PER_JOB_SECONDS / 2, "half: the clock is read a moment before the write, and the machine may be busy"


async def test_all_together_keep_to_the_cluster_s_rate_and_none_is_forgotten() -> None:
    uids = tuple(f"uid-{number}" for number in range(120))
    bench = Bench(uids)
    async with _writing(bench):
        began = time.monotonic()
        for uid in uids:
            bench.book.offer(uid, "pod", _report(uid=uid))
        await bench.until(lambda: len(bench.times) == len(uids))
        took = bench.times[-1][0] - began
    assert len({name for _, name in bench.times}) == len(uids)
    assert took >= (len(uids) - 1) / WRITES_PER_SECOND


async def test_those_that_wait_take_turns() -> None:
    """Everyone's second report comes after everyone's first: nobody is served twice while another waits."""
    uids = tuple(f"uid-{number}" for number in range(30))
    bench = Bench(uids)
    async with _writing(bench):
        for step in (1, 2, 3):
            for uid in uids:
                bench.book.offer(uid, "pod", _report(step, uid=uid))
            await asyncio.sleep(0.005)
        await bench.until(lambda: all(bench.status(uid).get("progress", {}).get("step") == 3 for uid in uids))
    names = [name for _, name in bench.times]
    assert len(set(names[: len(uids)])) == len(uids)


async def test_a_closed_run_is_written_no_more() -> None:
    bench = Bench()
    bench.book.offer(UID, "pod", _report())
    bench.book.close(UID)
    async with _writing(bench):
        await asyncio.sleep(0.02)
    assert bench.api.calls == []


async def test_a_report_that_came_while_the_end_was_written_changes_nothing_of_it() -> None:
    bench = Bench()
    bench.book.offer(UID, "pod", _report())
    ended = merge(bench.api.all(FINETUNEJOBS)[0], {"status": {"phase": "Succeeded", "progress": {"step": 100}}})
    bench.store.put(FINETUNEJOBS, bench.api.seed(FINETUNEJOBS, ended))
    async with _writing(bench):
        await asyncio.sleep(0.02)
    assert bench.api.calls == []
    assert bench.status()["progress"] == {"step": 100}


async def test_a_run_that_changed_meanwhile_is_written_again_on_its_newest_version() -> None:
    bench = Bench()
    body = bench.api.all(FINETUNEJOBS)[0]
    newest = bench.api.seed(FINETUNEJOBS, merge(body, {"status": {"restarts": 1}}))

    def conflict_once(call: Call) -> None:
        bench._note(call)
        bench.store.put(FINETUNEJOBS, newest)

    bench.api.before = conflict_once
    async with _writing(bench):
        bench.book.offer(UID, "pod", _report())
        await bench.until(lambda: "progress" in bench.status())
    assert bench.status()["restarts"] == 1
    assert len(bench.times) == 2


@pytest.mark.parametrize("status", [0, 429, 500, 503])
async def test_a_server_that_is_busy_gets_it_later(status: int) -> None:
    bench = Bench()

    def busy_once(call: Call) -> None:
        bench._note(call)
        if len(bench.times) == 1:
            raise ApiError(status, "", "busy", "PATCH")

    bench.api.before = busy_once
    async with _writing(bench):
        bench.book.offer(UID, "pod", _report())
        await bench.until(lambda: "progress" in bench.status())
    assert len(bench.times) == 2


async def test_a_refused_write_is_given_up_and_the_others_go_on() -> None:
    bench = Bench(("bad", "good"))

    def refuse(call: Call) -> None:
        bench._note(call)
        if call.name == "run-bad":
            raise ApiError(422, "Invalid", "no", "PATCH")

    bench.api.before = refuse
    async with _writing(bench):
        bench.book.offer("bad", "pod", _report(uid="bad"))
        bench.book.offer("good", "pod", _report(uid="good"))
        await bench.until(lambda: "progress" in bench.status("good"))
        await asyncio.sleep(0.02)
    assert [name for _, name in bench.times].count("run-bad") == 1


async def test_no_error_of_one_write_ends_the_writing() -> None:
    bench = Bench(("bad", "good"))

    def break_down(call: Call) -> None:
        if call.name == "run-bad":
            raise RuntimeError("a bug")

    bench.api.before = break_down
    async with _writing(bench):
        bench.book.offer("bad", "pod", _report(uid="bad"))
        await asyncio.sleep(0.01)
        bench.book.offer("good", "pod", _report(uid="good"))
        await bench.until(lambda: "progress" in bench.status("good"))


def test_the_time_is_the_operator_s_and_what_is_so_already_is_not_sent() -> None:
    patch = build_progress_patch({}, _report(), at(5))
    assert patch["progress"]["lastUpdatedTime"] == format_time(at(5))
    assert build_progress_patch(patch, _report(), at(5)) == {}


def test_a_report_from_before_the_first_step_takes_no_figures_away() -> None:
    """After a restart the trainer loads again; what the last pod measured stays until there is something newer."""
    current = {"progress": {"step": 5}, "metrics": {"loss": 1.0}}
    loading = TrainerReport(job=_report().job, sequence=1, stage="loading")
    assert build_progress_patch(current, loading, NOW) == {}


def test_a_figure_that_is_not_known_any_more_goes() -> None:
    current = {"metrics": {"loss": 1.0, "evalLoss": 2.0, "history": []}}
    assert build_progress_patch(current, _report(), NOW)["metrics"]["evalLoss"] is None
