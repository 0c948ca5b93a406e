"""Every metric: its name, kind, labels and meaning. Dashboards, alerts and the reference page go by these names."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily

_PLACE: Final = ("namespace", "queue")
_CACHE: Final = ("namespace", "claim")
_RUN: Final = ("namespace", "name", "uid")
_SHORT: Final = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0)
_LONG: Final = (10.0, 60.0, 300.0, 900.0, 1800.0, 3600.0, 3 * 3600.0, 6 * 3600.0, 12 * 3600.0, 86400.0, 3 * 86400.0, 7 * 86400.0)


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric, before anything is measured."""

    name: str
    """Without the ``_total`` that Prometheus' text format gives a counter."""
    kind: str
    """``counter``, ``gauge`` or ``histogram``."""
    meaning: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()
    """Upper bounds of a histogram, in its unit."""

    @property
    def exposed_name(self) -> str:
        """The name that queries use; that of a histogram is followed by ``_bucket``, ``_sum`` or ``_count``."""
        return f"{self.name}_total" if self.kind == "counter" else self.name

    def build_counter(self, registry: CollectorRegistry) -> Counter:
        """Register a counter."""
        return Counter(self.name, self.meaning, self.labels, registry=registry)

    def build_gauge(self, registry: CollectorRegistry) -> Gauge:
        """Register a gauge."""
        return Gauge(self.name, self.meaning, self.labels, registry=registry)

    def build_histogram(self, registry: CollectorRegistry) -> Histogram:
        """Register a histogram."""
        return Histogram(self.name, self.meaning, self.labels, buckets=self.buckets, registry=registry)

    def build_family(self, values: Iterable[tuple[tuple[str, ...], float]]) -> GaugeMetricFamily:
        """Return a gauge as a collector gives it: label values, and the value."""
        family = GaugeMetricFamily(self.name, self.meaning, labels=self.labels)
        for labels, value in values:
            family.add_metric(labels, value)
        return family


RUNS: Final = Metric("finetune_runs", "gauge", "FineTuneJobs by phase.", (*_PLACE, "phase"))
GPUS_IN_USE: Final = Metric("finetune_gpus_in_use", "gauge", "GPUs of runs that train now.", _PLACE)
OLDEST_WAIT: Final = Metric(
    "finetune_oldest_wait_seconds", "gauge", "Time that the run which waits longest for queue, quota or node has waited.", _PLACE
)

GPU_SECONDS: Final = Metric("finetune_gpu_seconds", "counter", "GPU time of pods that have ended.", _PLACE)
RUNNING_SECONDS: Final = Metric("finetune_running_seconds", "counter", "Running time of pods that have ended.", _PLACE)
QUEUED_SECONDS: Final = Metric("finetune_queued_seconds", "counter", "Time waited for queue, quota or a node, of waits over.", _PLACE)
INTERRUPTIONS: Final = Metric("finetune_interruptions", "counter", "Pods that were preempted, evicted, drained or suspended.", _PLACE)
FAILURES: Final = Metric("finetune_failures", "counter", "Pods that failed and count against backoffLimit.", _PLACE)
RUNS_ENDED: Final = Metric(
    "finetune_runs_ended", "counter", "Runs that have ended; `reason` is that of the condition Succeeded.", (*_PLACE, "phase", "reason")
)
GPU_COST: Final = Metric("finetune_gpu_cost", "counter", "GPU time of pods that have ended, by the price table.", _PLACE)
QUEUE_TIME: Final = Metric("finetune_queue_time_seconds", "histogram", "Waits for queue, quota or a node, each as it ended.", _PLACE, _LONG)
RUN_TIME: Final = Metric(
    "finetune_run_time_seconds",
    "histogram",
    "Time that runs which have ended spent running, over all their pods.",
    (*_PLACE, "phase"),
    _LONG,
)

CACHE_USED: Final = Metric("finetune_model_cache_used_bytes", "gauge", "Models in a cache, as the newest run that looked found it.", _CACHE)
CACHE_FREE: Final = Metric("finetune_model_cache_free_bytes", "gauge", "Free space of a model cache's volume, likewise.", _CACHE)
CACHE_TOTAL: Final = Metric("finetune_model_cache_total_bytes", "gauge", "Size of a model cache's volume, likewise.", _CACHE)

RUN_LOSS: Final = Metric("finetune_run_loss", "gauge", "Training loss, in nats a token, as last reported.", _RUN)
RUN_EVAL_LOSS: Final = Metric("finetune_run_eval_loss", "gauge", "Loss on held-out data, as last reported.", _RUN)
RUN_TOKENS: Final = Metric("finetune_run_tokens_per_second", "gauge", "Throughput, as last reported.", _RUN)
RUN_PROGRESS: Final = Metric("finetune_run_progress_ratio", "gauge", "Share of the optimizer steps done, 0 to 1.", _RUN)
RUN_GPU_MEMORY: Final = Metric("finetune_run_gpu_memory_peak_bytes", "gauge", "Peak of allocated GPU memory, as last reported.", _RUN)
RUN_REPORT: Final = Metric(
    "finetune_run_last_news_timestamp_seconds",
    "gauge",
    "When progress was last written, or, before the first report, when the pod started: Unix time.",
    _RUN,
)
RUNS_UNLISTED: Final = Metric(
    "finetune_runs_without_series", "gauge", "Running runs beyond the limit of those that have series of their own."
)

LEADER: Final = Metric("finetune_leader", "gauge", "1 where this replica leads and writes.")
BUILD: Final = Metric("finetune_build_info", "gauge", "Always 1; the label is the operator's version.", ("version",))
RECONCILE_TIME: Final = Metric(
    "finetune_reconcile_seconds",
    "histogram",
    "Reconciliations by their result: ok, retry (the API server refused or the object changed) or error (a fault of the operator).",
    ("kind", "result"),
    _SHORT,
)
QUEUE_DEPTH: Final = Metric("finetune_workqueue_depth", "gauge", "Objects that wait for a worker now.", ("kind",))
TASKS: Final = Metric(
    "finetune_event_loop_tasks",
    "gauge",
    "Tasks of the event loop now: some dozens, and one for each object that changed within a second. A number that only grows is a leak.",
)
API_TIME: Final = Metric(
    "finetune_api_call_seconds",
    "histogram",
    "Calls to the API server by verb, from sending to the whole answer; watches are not among them.",
    ("verb",),
    _SHORT,
)
API_CALLS: Final = Metric(
    "finetune_api_calls", "counter", "Calls to the API server by verb and status code; `none` where there was no answer.", ("verb", "code")
)
WATCH_OPENED: Final = Metric(
    "finetune_watch_opened_timestamp_seconds",
    "gauge",
    "When the present watch was opened: Unix time. `scope` is its namespace, empty for all. A watch begins anew after 270 s at the latest.",
    ("resource", "scope"),
)
WATCH_EVENTS: Final = Metric("finetune_watch_events", "counter", "Events taken in from watches.", ("resource",))
RESYNC: Final = Metric(
    "finetune_resync_timestamp_seconds",
    "gauge",
    "When the last complete comparison with the API server ended: Unix time; 0 before the first.",
)
REPORTS: Final = Metric(
    "finetune_reports",
    "counter",
    "Trainers' reports by what became of them: accepted, relayed to the leader, or why refused.",
    ("result",),
)
REPORTS_WAITING: Final = Metric("finetune_report_writes_waiting", "gauge", "Runs whose newest report waits to be written into status.")
CERTIFICATE: Final = Metric(
    "finetune_certificate_expiry_timestamp_seconds", "gauge", "When the report receiver's certificate ends: Unix time; 0 without one."
)

SECTIONS: Final[dict[str, tuple[Metric, ...]]] = {
    "Runs now": (RUNS, GPUS_IN_USE, OLDEST_WAIT),
    "What was used": (
        GPU_SECONDS,
        RUNNING_SECONDS,
        QUEUED_SECONDS,
        QUEUE_TIME,
        RUN_TIME,
        INTERRUPTIONS,
        FAILURES,
        RUNS_ENDED,
        GPU_COST,
    ),
    "Shared caches of base models": (CACHE_USED, CACHE_FREE, CACHE_TOTAL),
    "Each run that trains now": (RUN_LOSS, RUN_EVAL_LOSS, RUN_TOKENS, RUN_PROGRESS, RUN_GPU_MEMORY, RUN_REPORT, RUNS_UNLISTED),
    "The operator": (
        LEADER,
        BUILD,
        RECONCILE_TIME,
        QUEUE_DEPTH,
        TASKS,
        API_TIME,
        API_CALLS,
        WATCH_OPENED,
        WATCH_EVENTS,
        RESYNC,
        REPORTS,
        REPORTS_WAITING,
        CERTIFICATE,
    ),
}
"""All metrics, as the reference page has them."""
