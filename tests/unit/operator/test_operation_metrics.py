"""What Prometheus is told of the operator itself, and that the catalogue names all of it."""

import asyncio
from datetime import timedelta

import pytest
from prometheus_client import CollectorRegistry

from finetune_operator.metrics import reference
from finetune_operator.metrics.catalogue import SECTIONS
from finetune_operator.metrics.operation import OperationMetrics
from finetune_operator.metrics.runs import RunCollector
from finetune_operator.metrics.usage import UsageMetrics
from tests.support.world import NOW


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def metrics(registry: CollectorRegistry) -> OperationMetrics:
    return OperationMetrics(registry)


@pytest.mark.parametrize(
    ("status", "relayed", "result"),
    [(202, False, "accepted"), (202, True, "relayed"), (403, False, "not_of_this_run"), (418, False, "status_418")],
)
def test_reports_are_counted_by_what_became_of_them(
    registry: CollectorRegistry, metrics: OperationMetrics, status: int, relayed: bool, result: str
) -> None:
    metrics.note_report(status, relayed)
    assert registry.get_sample_value("finetune_reports_total", {"result": result}) == 1


def test_a_call_without_an_answer_is_told_from_a_refusal(registry: CollectorRegistry, metrics: OperationMetrics) -> None:
    metrics.note_call("PATCH", "/api/v1/pods/a", 0, 15.0)
    metrics.note_call("PATCH", "/api/v1/pods/a", 409, 0.01)
    counted = {code: registry.get_sample_value("finetune_api_calls_total", {"verb": "PATCH", "code": code}) for code in ("none", "409")}
    assert counted == {"none": 1, "409": 1}
    assert registry.get_sample_value("finetune_api_call_seconds_count", {"verb": "PATCH"}) == 2


def test_what_is_asked_for_at_each_scrape_is_the_newest(registry: CollectorRegistry, metrics: OperationMetrics) -> None:
    depth, left = [0], [1.0]
    metrics.add_queue("FineTuneJob", lambda: depth[0])
    metrics.add_leadership(lambda: left[0])
    depth[0], left[0] = 7, -1.0
    assert registry.get_sample_value("finetune_workqueue_depth", {"kind": "FineTuneJob"}) == 7
    assert registry.get_sample_value("finetune_leader") == 0


async def test_a_task_of_the_event_loop_is_counted_until_it_ends(registry: CollectorRegistry, metrics: OperationMetrics) -> None:
    metrics.add_event_loop(asyncio.get_running_loop())
    before = registry.get_sample_value("finetune_event_loop_tasks")
    assert before is not None
    async with asyncio.TaskGroup() as group:
        group.create_task(asyncio.sleep(0))
        assert registry.get_sample_value("finetune_event_loop_tasks") == before + 1
    assert registry.get_sample_value("finetune_event_loop_tasks") == before


async def test_every_metric_is_in_the_catalogue_and_no_other(registry: CollectorRegistry, metrics: OperationMetrics) -> None:
    UsageMetrics(registry, {})
    registry.register(RunCollector(list, lambda: NOW))
    metrics.add_leadership(lambda: 0.0)
    metrics.add_resync(lambda: 0.0)
    metrics.add_reports(lambda: 0, lambda: NOW + timedelta(days=1))
    metrics.add_event_loop(asyncio.get_running_loop())
    found = {(family.name, family.type) for family in registry.collect() if not family.name.startswith("process_")}
    assert found == {(metric.name, metric.kind) for metrics in SECTIONS.values() for metric in metrics}


def test_the_reference_page_is_as_generated() -> None:
    """To write it anew: `python -m finetune_operator.metrics.reference`."""
    assert reference.PAGE.read_text() == reference.render()
