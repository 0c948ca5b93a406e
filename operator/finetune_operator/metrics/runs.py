"""What there is now, read from the store whenever Prometheus asks: a run that ends takes its series along."""

from collections import Counter as Tally
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from typing import Final

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from finetune_api.status import Phase
from finetune_operator.metrics import catalogue
from finetune_operator.metrics.catalogue import Metric
from finetune_operator.objects import Object, name_of, namespace_of, parse_time, uid_of

RUNS_WITH_SERIES: Final = 500
"""Running runs that have series of their own; beyond it the youngest have none, so that a burst of runs is no burst of series."""

_UNDER_WAY: Final = frozenset(phase.value for phase in (Phase.QUEUED, Phase.STARTING, Phase.RUNNING, Phase.SUSPENDED))

_MEASURES: Final[tuple[tuple[Metric, str], ...]] = (
    (catalogue.RUN_LOSS, "loss"),
    (catalogue.RUN_EVAL_LOSS, "evalLoss"),
    (catalogue.RUN_TOKENS, "tokensPerSecond"),
    (catalogue.RUN_GPU_MEMORY, "gpuMemoryPeakBytes"),
)
_CACHE_MEASURES: Final[tuple[tuple[Metric, str], ...]] = (
    (catalogue.CACHE_USED, "usedBytes"),
    (catalogue.CACHE_FREE, "freeBytes"),
    (catalogue.CACHE_TOTAL, "totalBytes"),
)


class RunCollector(Collector):
    """Gauges of runs, by place and one by one.

    :param series: how many running runs have series of their own.
    :param begin: told each place (namespace and queue) in which a run is under way, before what was used there is read.
    :param reports: trainers report. Without, no run is ever heard of, and none is silent.
    """

    def __init__(
        self,
        finetunejobs: Callable[[], Iterable[Object]],
        clock: Callable[[], datetime],
        series: int = RUNS_WITH_SERIES,
        begin: Callable[[str, str], None] = lambda *_: None,
        *,
        reports: bool = True,
    ) -> None:
        self._finetunejobs = finetunejobs
        self._clock = clock
        self._series = series
        self._begin = begin
        self._reports = reports

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Count runs and GPUs, and show what the running ones have reported."""
        runs: Tally[tuple[str, ...]] = Tally()
        gpus: Tally[tuple[str, ...]] = Tally()
        waits: dict[tuple[str, ...], float] = {}
        running: list[Object] = []
        caches: dict[tuple[str, ...], Object] = {}
        now = self._clock()
        for body in self._finetunejobs():
            status = body.get("status") or {}
            place = (namespace_of(body), (status.get("queue") or {}).get("name", ""))
            phase = status.get("phase") or Phase.PENDING.value
            runs[*place, phase] += 1
            if phase in _UNDER_WAY:
                self._begin(*place)
            if phase == Phase.RUNNING:
                gpus[place] += status.get("gpus") or 0
                running.append(body)
            if (cache := status.get("modelCache")) is not None:
                claim = (namespace_of(body), cache.get("claim", ""))
                caches[claim] = max(caches.get(claim, cache), cache, key=lambda found: found.get("measuredTime") or "")
            if (since := parse_time(status.get("queuedSince"))) is not None:
                waits[place] = max(waits.get(place, 0.0), (now - since).total_seconds())
        yield catalogue.RUNS.build_family(sorted(runs.items()))
        yield catalogue.GPUS_IN_USE.build_family(sorted(gpus.items()))
        yield catalogue.OLDEST_WAIT.build_family(sorted(waits.items()))
        for metric, field in _CACHE_MEASURES:
            yield metric.build_family((claim, found[field]) for claim, found in sorted(caches.items()) if field in found)
        running.sort(key=lambda body: body["metadata"]["creationTimestamp"])
        yield from _collect_measures(running[: self._series])
        yield catalogue.RUN_REPORT.build_family(_compute_news(running[: self._series]) if self._reports else ())
        yield catalogue.RUNS_UNLISTED.build_family([((), float(max(0, len(running) - self._series)))])


def _collect_measures(running: list[Object]) -> Iterator[GaugeMetricFamily]:
    for metric, field in _MEASURES:
        found = ((_labels_of(body), (body["status"].get("metrics") or {}).get(field)) for body in running)
        yield metric.build_family((labels, value) for labels, value in found if value is not None)
    shares = ((_labels_of(body), (body["status"].get("progress") or {}).get("percentage")) for body in running)
    yield catalogue.RUN_PROGRESS.build_family((labels, share / 100) for labels, share in shares if share is not None)


def _compute_news(running: list[Object]) -> Iterator[tuple[tuple[str, ...], float]]:
    for body in running:
        progress, pod = body["status"].get("progress") or {}, body["status"].get("pod") or {}
        time = _newest(progress.get("lastUpdatedTime"), pod.get("startTime"))
        if time is not None:
            yield _labels_of(body), time.timestamp()


def _labels_of(body: Object) -> tuple[str, ...]:
    return namespace_of(body), name_of(body), uid_of(body)


def _newest(*times: str | None) -> datetime | None:
    return max((time for text in times if (time := parse_time(text)) is not None), default=None)
