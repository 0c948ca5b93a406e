"""What Prometheus is told of the runs that there are."""

from datetime import timedelta
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from finetune_operator.metrics.route import add_metrics_route
from finetune_operator.metrics.runs import RunCollector
from tests.support.world import NOW, build_finetunejob

TRAINING = {
    "phase": "Running",
    "gpus": 4,
    "queue": {"name": "team-a"},
    "pod": {"name": "p", "uid": "p", "startTime": (NOW - timedelta(seconds=60)).isoformat()},
    "progress": {"percentage": 40, "step": 4, "totalSteps": 10, "epoch": 0.4, "lastUpdatedTime": (NOW - timedelta(seconds=5)).isoformat()},
    "metrics": {"loss": 1.5, "tokensPerSecond": 1000},
}


def _collect(*runs: dict[str, Any], series: int = 10, reports: bool = True) -> CollectorRegistry:
    registry = CollectorRegistry()
    registry.register(RunCollector(lambda: runs, lambda: NOW, series, reports=reports))
    return registry


def _of(name: str, registry: CollectorRegistry) -> dict[str, float]:
    return {sample.labels["uid"]: sample.value for family in registry.collect() for sample in family.samples if sample.name == name}


async def test_what_is_now_is_served_in_words_that_prometheus_reads() -> None:
    queued = build_finetunejob(status={"phase": "Queued", "gpus": 8, "queue": {"name": "team-a"}}, uid="b")
    app = web.Application()
    add_metrics_route(app, _collect(build_finetunejob(status=TRAINING, uid="a"), queued))
    async with TestClient(TestServer(app)) as client:
        answer = await client.get("/metrics")
        families = {family.name: family for family in text_string_to_metric_families(await answer.text())}
    assert answer.content_type == "text/plain"
    place = {"namespace": "team-a", "queue": "team-a"}
    counted = [(sample.labels, sample.value) for sample in families["finetune_runs"].samples]
    assert counted == [(place | {"phase": "Queued"}, 1), (place | {"phase": "Running"}, 1)]
    assert [(sample.labels, sample.value) for sample in families["finetune_gpus_in_use"].samples] == [(place, 4)]


def test_a_running_run_has_series_of_its_own() -> None:
    registry = _collect(build_finetunejob(status=TRAINING, uid="a"))
    assert _of("finetune_run_loss", registry) == {"a": 1.5}
    assert _of("finetune_run_tokens_per_second", registry) == {"a": 1000}
    assert _of("finetune_run_progress_ratio", registry) == {"a": 0.4}
    assert _of("finetune_run_last_news_timestamp_seconds", registry) == {"a": NOW.timestamp() - 5}
    assert _of("finetune_run_eval_loss", registry) == {}, "what was not measured is absent, not 0"


def test_a_run_that_has_ended_has_none() -> None:
    registry = _collect(build_finetunejob(status=TRAINING | {"phase": "Succeeded"}, uid="a"))
    assert not [s for family in registry.collect() for s in family.samples if "uid" in s.labels]


def test_before_the_first_report_the_news_is_that_the_pod_started() -> None:
    status = {key: value for key, value in TRAINING.items() if key not in ("progress", "metrics")}
    registry = _collect(build_finetunejob(status=status, uid="a"))
    assert _of("finetune_run_last_news_timestamp_seconds", registry) == {"a": NOW.timestamp() - 60}


def test_where_no_trainer_reports_no_run_is_silent() -> None:
    registry = _collect(build_finetunejob(status=TRAINING, uid="a"), reports=False)
    assert _of("finetune_run_last_news_timestamp_seconds", registry) == {}


def test_a_burst_of_runs_is_no_burst_of_series() -> None:
    registry = _collect(*(build_finetunejob(status=TRAINING, uid=str(number)) for number in range(5)), series=2)
    assert len(_of("finetune_run_loss", registry)) == 2
    assert registry.get_sample_value("finetune_runs_without_series") == 3


def test_the_longest_wait_of_a_queue_is_shown() -> None:
    waits = [
        build_finetunejob(
            status={"phase": "Queued", "queue": {"name": "q"}, "queuedSince": (NOW - timedelta(seconds=each)).isoformat()}, uid=str(each)
        )
        for each in (30, 500, 20)
    ]
    assert _collect(*waits).get_sample_value("finetune_oldest_wait_seconds", {"namespace": "team-a", "queue": "q"}) == 500


def test_each_place_with_a_run_under_way_is_told() -> None:
    told: list[tuple[str, str]] = []
    ended = build_finetunejob(status={"phase": "Succeeded", "queue": {"name": "other"}}, uid="b")
    runs = [build_finetunejob(status=TRAINING, uid="a"), ended]
    list(RunCollector(lambda: runs, lambda: NOW, begin=lambda namespace, queue: told.append((namespace, queue))).collect())
    assert told == [("team-a", "team-a")]
