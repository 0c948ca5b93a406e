"""What Prometheus is told of usage, by namespace and queue."""

import pytest
from prometheus_client import CollectorRegistry

from finetune_api.reasons import Reason
from finetune_api.status import Condition, FineTuneJobStatus, Phase, QueueStatus
from finetune_operator.metrics.usage import UsageMetrics
from tests.support.world import NOW, REF

BEFORE = FineTuneJobStatus(phase=Phase.RUNNING, gpu_seconds=100, queue=QueueStatus(name="team-a"))


def _read(registry: CollectorRegistry, name: str, **labels: str) -> float | None:
    return registry.get_sample_value(name, {"namespace": "team-a", "queue": "team-a", **labels})


def _metrics() -> tuple[CollectorRegistry, UsageMetrics]:
    registry = CollectorRegistry()
    return registry, UsageMetrics(registry, {"nvidia.com/gpu": 7.2})


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


def test_a_wait_is_observed_when_it_ends() -> None:
    registry, usage = _metrics()
    waiting = BEFORE.model_copy(update={"phase": Phase.QUEUED, "queued_since": NOW})
    usage.note(REF, None, BEFORE, waiting)
    assert _read(registry, "finetune_queue_time_seconds_count") is None
    usage.note(REF, None, waiting, BEFORE.model_copy(update={"queued_seconds": 400}))
    assert _read(registry, "finetune_queue_time_seconds_sum") == 400
    assert _read(registry, "finetune_queue_time_seconds_bucket", le="300.0") == 0
    assert _read(registry, "finetune_queue_time_seconds_bucket", le="900.0") == 1


def test_the_running_time_of_a_run_is_observed_when_it_ends() -> None:
    registry, usage = _metrics()
    ended = BEFORE.model_copy(update={"phase": Phase.SUCCEEDED, "running_seconds": 90})
    usage.note(REF, None, BEFORE, ended)
    usage.note(REF, None, ended, ended)
    assert _read(registry, "finetune_run_time_seconds_sum", phase="Succeeded") == 90
    assert _read(registry, "finetune_run_time_seconds_count", phase="Succeeded") == 1


def test_what_a_run_used_is_the_queue_s_that_it_was_in() -> None:
    """A person moved it to another queue while it was stopped: both changes may reach status in one write."""
    registry, usage = _metrics()
    moved = {"queue": QueueStatus(name="team-b"), "gpu_seconds": 150, "interruptions": 1, "queued_seconds": 5}
    after = BEFORE.model_copy(update=moved)
    usage.note(REF, "nvidia.com/gpu", BEFORE, after)
    usage.note(REF, "nvidia.com/gpu", after, after.model_copy(update={"gpu_seconds": 180}))
    name, queues = "finetune_gpu_seconds_total", ("team-a", "team-b")
    spent = {queue: registry.get_sample_value(name, {"namespace": "team-a", "queue": queue}) for queue in queues}
    assert spent == {"team-a": 50, "team-b": 30}
    assert _read(registry, "finetune_interruptions_total") == 1
    assert _read(registry, "finetune_queued_seconds_total") == 5


def test_what_is_used_in_a_place_begins_at_0_before_anything_is() -> None:
    """`increase()` does not see the value that a series begins with."""
    registry, usage = _metrics()
    usage.begin("team-a", "team-a")
    names = ("gpu_seconds_total", "failures_total", "interruptions_total", "gpu_cost_total", "queue_time_seconds_count")
    assert [_read(registry, f"finetune_{name}") for name in names] == [0.0] * len(names)
    assert _read(registry, "finetune_run_time_seconds_count", phase="Failed") == 0
    assert _read(registry, "finetune_runs_ended_total", phase="Failed", reason="OutOfMemory") == 0
    usage.note(REF, None, BEFORE, BEFORE.model_copy(update={"failures": 1}))
    usage.begin("team-a", "team-a")
    assert _read(registry, "finetune_failures_total") == 1
