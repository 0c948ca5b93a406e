"""The newest report of each run, and when it is written.

A run's progress is written at most every :data:`PER_JOB_SECONDS`, and all of them together at most :data:`WRITES_PER_SECOND` times a
second. Above that, runs wait their turn in the order in which they became due, so each is stretched alike.
"""

import asyncio
import heapq
import itertools
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from finetune_api.report import TrainerReport
from finetune_operator.kube.client import FINETUNEJOBS, ApiError, KubeClient
from finetune_operator.kube.status_writer import StatusWriter
from finetune_operator.kube.store import Store
from finetune_operator.objects import Object
from finetune_operator.status.patch import merge_value

PER_JOB_SECONDS: Final = 5.0
WRITES_PER_SECOND: Final = 50.0
WRITES_AT_ONCE: Final = 8
RETRY_SECONDS: Final = 1.0

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Entry:
    pod_uid: str
    sequence: int
    pending: TrainerReport | None = None
    received: datetime | None = None
    next_write: float = 0.0
    queued: bool = False
    """Waits for its turn, or is being written."""


class ReportBook:
    """Newest reports by run; writes them into status, and only the parts of it that are theirs."""

    def __init__(
        self, client: KubeClient, store: Store, clock: Callable[[], datetime], monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._writer = StatusWriter(client, store, FINETUNEJOBS)
        self._store = store
        self._clock = clock
        self._monotonic = monotonic
        self._entries: dict[str, _Entry] = {}
        self._due: list[tuple[float, int, str, _Entry]] = []
        self._order = itertools.count()
        self._changed = asyncio.Event()

    @property
    def waiting(self) -> int:
        """Number of runs whose newest report waits to be written."""
        return sum(entry.pending is not None for entry in self._entries.values())

    def offer(self, uid: str, pod_uid: str, report: TrainerReport) -> bool:
        """Keep ``report`` if it is newer than what the same pod has sent; False where it is not."""
        entry = self._entries.get(uid)
        if entry is not None and entry.pod_uid == pod_uid and report.sequence <= entry.sequence:
            return False
        if entry is None:
            entry = self._entries[uid] = _Entry(pod_uid, report.sequence)
        entry.pod_uid, entry.sequence = pod_uid, report.sequence
        entry.pending, entry.received = report, self._clock()
        self._enqueue(uid, entry, entry.next_write)
        return True

    def clear(self) -> None:
        """Forget everything: another replica leads, and knows better by the time that this one leads again."""
        self._entries.clear()
        self._due.clear()

    def close(self, uid: str) -> None:
        """Forget the run: its end is about to be written, and no report may overwrite it."""
        self._entries.pop(uid, None)

    async def write_forever(self) -> None:
        """Write what is due, a few at a time."""
        gate = asyncio.Semaphore(WRITES_AT_ONCE)
        async with asyncio.TaskGroup() as writes:
            while True:
                uid, entry = await self._next()
                await gate.acquire()
                task = writes.create_task(self._write(uid, entry))
                task.add_done_callback(lambda _: gate.release())
                await asyncio.sleep(1 / WRITES_PER_SECOND)

    def _enqueue(self, uid: str, entry: _Entry, due: float) -> None:
        if not entry.queued:
            entry.queued = True
            heapq.heappush(self._due, (due, next(self._order), uid, entry))
            self._changed.set()

    async def _next(self) -> tuple[str, _Entry]:
        while True:
            now = self._monotonic()
            if self._due and self._due[0][0] <= now:
                _, _, uid, entry = heapq.heappop(self._due)
                if self._entries.get(uid) is entry:
                    return uid, entry
                continue
            self._changed.clear()
            try:
                async with asyncio.timeout(self._due[0][0] - now if self._due else None):
                    await self._changed.wait()
            except TimeoutError:
                continue

    async def _write(self, uid: str, entry: _Entry) -> None:
        try:
            await self._write_pending(uid, entry)
        except ApiError as error:
            log.warning("progress not written: %s", error, extra={"uid": uid})
        except Exception:
            log.exception("progress not written", extra={"uid": uid})  # the next report is another try; the others go on
        finally:
            entry.queued = False
            if entry.pending is not None and self._entries.get(uid) is entry:
                self._enqueue(uid, entry, entry.next_write)

    async def _write_pending(self, uid: str, entry: _Entry) -> None:
        body = self._store.finetunejob(uid)
        if body is None or entry.pending is None or entry.received is None:
            return
        if (body.get("status") or {}).get("phase") in ("Succeeded", "Failed"):
            self.close(uid)  # it was offered while the end was being written, and the end stays as it is
            return
        report, entry.pending = entry.pending, None
        entry.next_write = self._monotonic() + PER_JOB_SECONDS
        patch = build_progress_patch(body.get("status", {}), report, entry.received)
        if not patch:
            return
        try:
            await self._writer.write(body, patch)
        except ApiError as error:
            if not (error.conflict or error.transient):
                raise
            # The resource changed, or the server is busy: try the newest report again soon.
            entry.pending = entry.pending or report
            entry.next_write = self._monotonic() + RETRY_SECONDS


def build_progress_patch(current: Object, report: TrainerReport, received: datetime) -> dict[str, Any]:
    """Return the merge patch of the report's own parts of status; nothing where they are so already.

    The time is the operator's: a node's clock may be wrong.
    """
    progress = report.progress.model_copy(update={"last_updated_time": received}) if report.progress is not None else None
    parts = {"progress": progress, "metrics": report.metrics if report.progress is not None else None, "dataset": report.dataset}
    wanted = {key: part.model_dump(mode="json", exclude_none=True) for key, part in parts.items() if part is not None}
    return {key: merge_value(current.get(key), value) for key, value in wanted.items() if current.get(key) != value}
