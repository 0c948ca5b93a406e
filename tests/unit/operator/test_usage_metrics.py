"""What Prometheus is told of usage, by namespace and queue."""

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from prometheus_client import CollectorRegistry

from finetune_api.reasons import Reason
from finetune_api.status import Condition, FineTuneJobStatus, Phase, QueueStatus
from finetune_operator.metrics import UsageMetrics, add_metrics_route, build_metrics
from tests.support.world import NOW, REF, build_finetunejob

BEFORE = FineTuneJobStatus(phase=Phase.RUNNING, gpu_seconds=100, queue=QueueStatus(name="team-a"))


def _read(registry: CollectorRegistry, name: str, **labels: str) -> float | None:
    return registry.get_sample_value(name, {"namespace": "team-a", "queue": "team-a", **labels})


def _metrics() -> tuple[CollectorRegistry, UsageMetrics]:
    return build_metrics(list, {"nvidia.com/gpu": 7.2})


def test_only_what_was_added_is_counted() -> None:
    registry, usage = _metrics()
    more = {"gpu_seconds": 150, "running_seconds": 60, "queued_seconds": 5, "interruptions": 1, "failures": 2}
    usage.note(REF, "nvidia.com/gpu", BEFORE, BEFORE.model_copy(update=more))
    usage.note(REF, "nvidia.com/gpu", BEFORE.model_copy(update=more), BEFORE.model_copy(update=more))
    counted = {name: _read(registry, f"finetune_{name}_total") for name in more}
    assert counted == {**more, "gpu_seconds": 50}
    assert _read(registry, "finetune_gpu_cost_total") == pytest.approx(0.1)  # 50 s at 7.2 an hour


def test_a_resource_without_a_price_has_no_cost() -> None:
    registry, usage = _metrics()
    usage.note(REF, "example.com/other", BEFORE, BEFORE.model_copy(update={"gpu_seconds": 150}))
    assert _read(registry, "finetune_gpu_cost_total") is None


def test_an_end_is_counted_once_with_its_reason() -> None:
    registry, usage = _metrics()
    ended = BEFORE.model_copy(
        update={
            "phase": Phase.FAILED,
            "conditions": [Condition(type="Succeeded", status="False", reason=Reason.DATA_INVALID, last_transition_time=NOW)],
        }
    )
    usage.note(REF, None, BEFORE, ended)
    usage.note(REF, None, ended, ended)
    assert _read(registry, "finetune_runs_ended_total", phase="Failed", reason="DataInvalid") == 1


async def test_what_is_now_is_served() -> None:
    runs = [
        build_finetunejob(status={"phase": "Running", "gpus": 4, "queue": {"name": "team-a"}}, uid="a"),
        build_finetunejob(status={"phase": "Queued", "gpus": 8, "queue": {"name": "team-a"}}, uid="b"),
    ]
    registry, _ = build_metrics(lambda: runs, {})
    app = web.Application()
    add_metrics_route(app, registry)
    async with TestClient(TestServer(app)) as client:
        answer = await client.get("/metrics")
        text = await answer.text()
    assert answer.content_type == "text/plain"
    assert 'finetune_runs{namespace="team-a",phase="Queued",queue="team-a"} 1.0' in text
    assert 'finetune_gpus_in_use{namespace="team-a",queue="team-a"} 4.0' in text
