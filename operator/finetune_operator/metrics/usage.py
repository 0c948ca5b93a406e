"""What runs have used, added up as statuses are written.

A restart of the operator begins at 0 again, as Prometheus expects of a counter; the sums of each run are in its status.
"""

from collections.abc import Mapping
from typing import Final

from prometheus_client import CollectorRegistry

from finetune_api.exit_codes import OUTCOMES
from finetune_api.reasons import Reason
from finetune_api.report import JobReference
from finetune_api.status import FineTuneJobStatus, Phase
from finetune_operator.metrics import catalogue

_HOUR: Final = 3600.0
_FAILURES: Final = sorted(
    {outcome.reason for outcome in OUTCOMES.values() if outcome.retry != "free" and outcome.reason is not Reason.COMPLETED}
    | {Reason.BACKOFF_LIMIT_EXCEEDED, Reason.DEADLINE_EXCEEDED, Reason.RESULT_MISSING}
)
"""Reasons by which runs fail."""


class UsageMetrics:
    """Counters and histograms by namespace and queue.

    :param prices: price of one GPU for one hour, by the resource that it is asked for by.
    """

    def __init__(self, registry: CollectorRegistry, prices: Mapping[str, float]) -> None:
        self._prices = prices
        self._begun: set[tuple[str, str]] = set()
        self._gpu_seconds = catalogue.GPU_SECONDS.build_counter(registry)
        self._running = catalogue.RUNNING_SECONDS.build_counter(registry)
        self._queued = catalogue.QUEUED_SECONDS.build_counter(registry)
        self._queue_time = catalogue.QUEUE_TIME.build_histogram(registry)
        self._run_time = catalogue.RUN_TIME.build_histogram(registry)
        self._interruptions = catalogue.INTERRUPTIONS.build_counter(registry)
        self._failures = catalogue.FAILURES.build_counter(registry)
        self._ended = catalogue.RUNS_ENDED.build_counter(registry)
        self._cost = catalogue.GPU_COST.build_counter(registry)

    def begin(self, namespace: str, queue: str) -> None:
        """Let what is used in a place begin at 0.

        Prometheus counts what is added to a series, and not the value that it begins with: without this, the first pod that ends after
        a start of the operator would be missing, and with it perhaps a day of GPU time.
        """
        if (namespace, queue) in self._begun:
            return
        self._begun.add((namespace, queue))
        for series in (self._gpu_seconds, self._running, self._queued, self._interruptions, self._failures, self._queue_time):
            series.labels(namespace, queue)
        if self._prices:
            self._cost.labels(namespace, queue)
        for phase in (Phase.SUCCEEDED, Phase.FAILED):
            self._run_time.labels(namespace, queue, phase.value)
        self._ended.labels(namespace, queue, Phase.SUCCEEDED.value, Reason.COMPLETED.value)
        for reason in _FAILURES:
            self._ended.labels(namespace, queue, Phase.FAILED.value, reason.value)

    def note(self, ref: JobReference, gpu_resource: str | None, before: FineTuneJobStatus, after: FineTuneJobStatus) -> None:
        """Add what a status that was just written says beyond the one before it."""
        # A run may be moved to another queue: what it used and how long it waited is the queue's that it was in until then.
        queue = before.queue or after.queue
        labels = (ref.namespace, queue.name if queue is not None else "")
        pairs = (
            (self._gpu_seconds, after.gpu_seconds - before.gpu_seconds),
            (self._running, after.running_seconds - before.running_seconds),
            (self._queued, after.queued_seconds - before.queued_seconds),
            (self._interruptions, after.interruptions - before.interruptions),
            (self._failures, after.failures - before.failures),
        )
        for counter, more in pairs:
            if more > 0:
                counter.labels(*labels).inc(more)
        price = self._prices.get(gpu_resource or "")
        if price is not None and after.gpu_seconds > before.gpu_seconds:
            self._cost.labels(*labels).inc(price * (after.gpu_seconds - before.gpu_seconds) / _HOUR)
        if before.queued_since is not None and after.queued_since is None:
            self._queue_time.labels(*labels).observe(max(0, after.queued_seconds - before.queued_seconds))
        if after.phase is not None and after.phase.is_terminal and after.phase is not before.phase:
            reason = next((condition.reason for condition in after.conditions if condition.type == "Succeeded"), "")
            self._ended.labels(*labels, after.phase.value, reason).inc()
            self._run_time.labels(*labels, after.phase.value).observe(after.running_seconds)
