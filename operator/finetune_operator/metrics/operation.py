"""How the operator itself does: its queues, its calls, its watches, the reports that it takes."""

import asyncio
import time
from collections.abc import Callable
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Final

from prometheus_client import CollectorRegistry, ProcessCollector

from finetune_operator.metrics import catalogue

_REFUSALS: Final = {
    401: "unauthenticated",
    403: "not_of_this_run",
    408: "slow",
    409: "stale",
    413: "too_large",
    422: "invalid",
    429: "too_many",
    503: "unchecked",
}
"""Why a report was refused, by the status code of the answer."""


class OperationMetrics:
    """What the operator's parts tell as they work. Each method costs some microseconds."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self._reconcile = catalogue.RECONCILE_TIME.build_histogram(registry)
        self._depth = catalogue.QUEUE_DEPTH.build_gauge(registry)
        self._api_time = catalogue.API_TIME.build_histogram(registry)
        self._api_calls = catalogue.API_CALLS.build_counter(registry)
        self._opened = catalogue.WATCH_OPENED.build_gauge(registry)
        self._events = catalogue.WATCH_EVENTS.build_counter(registry)
        self._reports = catalogue.REPORTS.build_counter(registry)
        catalogue.BUILD.build_gauge(registry).labels(read_version()).set(1)
        ProcessCollector(registry=registry)

    def note_reconciled(self, kind: str) -> Callable[[str, float], None]:
        """Return what a worker tells of each object of ``kind``: the result and the seconds that it took."""
        return lambda result, seconds: self._reconcile.labels(kind, result).observe(seconds)

    def note_call(self, verb: str, path: str, status: int, seconds: float) -> None:
        """Count a call to the API server; status 0 is no answer. Paths are no label: they name objects."""
        del path
        self._api_calls.labels(verb, str(status or "none")).inc()
        self._api_time.labels(verb).observe(seconds)

    def note_watch(self, resource: str, namespace: str) -> None:
        """Take note that a watch was opened."""
        self._opened.labels(resource, namespace).set(time.time())

    def note_event(self, resource: str) -> None:
        """Count an event of a watch."""
        self._events.labels(resource).inc()

    def note_report(self, status: int, relayed: bool) -> None:  # noqa: FBT001
        """Count a report by the status code of the answer to it."""
        result = _REFUSALS.get(status, f"status_{status}") if status >= 300 else "relayed" if relayed else "accepted"
        self._reports.labels(result).inc()

    def add_event_loop(self, loop: asyncio.AbstractEventLoop) -> None:
        """Show how many tasks ``loop`` has."""
        catalogue.TASKS.build_gauge(self._registry).set_function(lambda: len(asyncio.all_tasks(loop)))

    def add_queue(self, kind: str, depth: Callable[[], int]) -> None:
        """Show how many objects of ``kind`` wait."""
        self._depth.labels(kind).set_function(depth)

    def add_leadership(self, seconds_left: Callable[[], float]) -> None:
        """Tell whether this replica leads: one of them should, and only one."""
        catalogue.LEADER.build_gauge(self._registry).set_function(lambda: float(seconds_left() > 0))

    def add_resync(self, last_resync: Callable[[], float]) -> None:
        """Tell when a resync last succeeded; ``last_resync`` is on the monotonic clock, 0 before the first."""

        def compute() -> float:
            last = last_resync()
            return time.time() - (time.monotonic() - last) if last else 0.0

        catalogue.RESYNC.build_gauge(self._registry).set_function(compute)

    def add_reports(self, waiting: Callable[[], int], expiry: Callable[[], datetime | None]) -> None:
        """Tell how many runs' reports wait to be written, and when the receiver's certificate ends."""
        catalogue.REPORTS_WAITING.build_gauge(self._registry).set_function(waiting)

        def compute() -> float:
            end = expiry()
            return end.timestamp() if end is not None else 0.0

        catalogue.CERTIFICATE.build_gauge(self._registry).set_function(compute)


def read_version() -> str:
    """Return the version that is installed."""
    try:
        return version("finetune-operator")
    except PackageNotFoundError:
        return "unknown"
