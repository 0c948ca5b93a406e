"""What Prometheus is told: what runs and waits now, and what has been used.

What is now is read from the store when it is asked for. What has been used is added up as statuses are written, so a restart of the
operator begins at 0 again, as Prometheus expects of a counter; the sums of each run are in its status.
"""

from collections import Counter as Tally
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from aiohttp import web
from prometheus_client import CollectorRegistry, Counter, Gauge
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

from finetune_api.report import JobReference
from finetune_api.status import FineTuneJobStatus, Phase
from finetune_operator.objects import Object, namespace_of

_LABELS: Final = ("namespace", "queue")
_HOUR: Final = 3600.0


class UsageMetrics:
    """Counters of what runs have used, by namespace and queue.

    :param prices: price of one GPU for one hour, by the resource that it is asked for by.
    """

    def __init__(self, registry: CollectorRegistry, prices: Mapping[str, float]) -> None:
        self._prices = prices
        self._gpu_seconds = Counter("finetune_gpu_seconds", "GPU time of pods that have ended.", _LABELS, registry=registry)
        self._running = Counter("finetune_running_seconds", "Running time of pods that have ended.", _LABELS, registry=registry)
        self._queued = Counter(
            "finetune_queued_seconds", "Time waited for queue, quota or a node, of waits over.", _LABELS, registry=registry
        )
        self._interruptions = Counter("finetune_interruptions", "Pods that were preempted, evicted or drained.", _LABELS, registry=registry)
        self._failures = Counter("finetune_failures", "Pods that failed and count against backoffLimit.", _LABELS, registry=registry)
        self._ended = Counter("finetune_runs_ended", "Runs that have ended.", (*_LABELS, "phase", "reason"), registry=registry)
        self._cost = Counter("finetune_gpu_cost", "GPU time of pods that have ended, by the price table.", _LABELS, registry=registry)

    def note(self, ref: JobReference, gpu_resource: str | None, before: FineTuneJobStatus, after: FineTuneJobStatus) -> None:
        """Add what a status that was just written says beyond the one before it."""
        labels = (ref.namespace, after.queue.name if after.queue is not None else "")
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
        if after.phase is not None and after.phase.is_terminal and after.phase is not before.phase:
            reason = next((condition.reason for condition in after.conditions if condition.type == "Succeeded"), "")
            self._ended.labels(*labels, after.phase.value, reason).inc()


class RunCollector(Collector):
    """Gauges of what there is now."""

    def __init__(self, finetunejobs: Callable[[], Iterable[Object]]) -> None:
        self._finetunejobs = finetunejobs

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """Count runs and GPUs."""
        runs: Tally[tuple[str, str, str]] = Tally()
        gpus: Tally[tuple[str, str]] = Tally()
        for body in self._finetunejobs():
            status = body.get("status") or {}
            namespace, queue = namespace_of(body), (status.get("queue") or {}).get("name", "")
            phase = status.get("phase") or Phase.PENDING.value
            runs[namespace, queue, phase] += 1
            if phase == Phase.RUNNING:
                gpus[namespace, queue] += status.get("gpus") or 0
        by_phase = GaugeMetricFamily("finetune_runs", "FineTuneJobs by phase.", labels=(*_LABELS, "phase"))
        for key, count in sorted(runs.items()):
            by_phase.add_metric(key, count)
        in_use = GaugeMetricFamily("finetune_gpus_in_use", "GPUs of runs that train now.", labels=_LABELS)
        for place, count in sorted(gpus.items()):
            in_use.add_metric(place, count)
        return by_phase, in_use


def build_metrics(finetunejobs: Callable[[], Iterable[Object]], prices: Mapping[str, float]) -> tuple[CollectorRegistry, UsageMetrics]:
    """Return a registry of all metrics, and the counters in it that statuses are told to."""
    registry = CollectorRegistry()
    registry.register(RunCollector(finetunejobs))
    return registry, UsageMetrics(registry, prices)


def add_leadership(registry: CollectorRegistry, seconds_left: Callable[[], float]) -> None:
    """Tell whether this replica leads: one of them should, and only one."""
    Gauge("finetune_leader", "1 where this replica leads and writes.", registry=registry).set_function(lambda: float(seconds_left() > 0))


def add_metrics_route(app: web.Application, registry: CollectorRegistry) -> None:
    """Serve ``/metrics`` in Prometheus' text format."""

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(body=generate_latest(registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    app.router.add_get("/metrics", metrics)
