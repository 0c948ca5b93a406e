"""What is recorded of a pass, and which spans come of it."""

import asyncio
import subprocess
import sys
from collections.abc import Sequence

import pytest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor

from finetune_api.tracing import AttemptTrace
from finetune_operator.kube.client import ApiError
from finetune_operator.kube.store import Store
from finetune_operator.log_context import add_subject, speaking_of
from finetune_operator.recording import name_resource, record_call, recording, step
from finetune_operator.settings import TracingSettings
from finetune_operator.tracing.traces import Traces

UID = "7c1d4b0e-8a5f-4a39-9a9b-0c9a4bb2a001"


class Kept(SpanProcessor):
    """Keeps what it is given."""

    def __init__(self) -> None:
        self.spans: list[ReadableSpan] = []

    def on_end(self, span: ReadableSpan) -> None:
        self.spans.append(span)


def make(ratio: float = 1.0) -> tuple[Traces, Kept]:
    kept = Kept()
    return Traces(TracingSettings("http://collector:4318", ratio), kept, Resource({}), Store()), kept


def reconcile(traces: Traces, calls: Sequence[tuple[str, str, int]], *, attempt: int | None = 0, fault: Exception | None = None) -> None:
    async def work(uid: str) -> float | None:
        assert uid == UID
        add_subject(job="team-a/run", attempt=attempt)
        with step("act: CreateJob"):
            for verb, path, status in calls:
                record_call(verb, path, status, 0.01)
            if fault is not None:
                raise fault
        return None

    async def run() -> None:
        with speaking_of(UID):
            await traces.trace_reconcile(work)(UID)

    asyncio.run(run())


CREATION = ("POST", "/apis/batch/v1/namespaces/team-a/jobs", 201)


def test_a_pass_with_calls_is_a_span_with_its_steps_and_calls() -> None:
    traces, kept = make()
    reconcile(traces, [CREATION])
    trace = AttemptTrace.of(UID, 0)
    whole, act, call = kept.spans
    assert [span.name for span in kept.spans] == ["reconcile", "act: CreateJob", "POST jobs"]
    assert whole.parent is not None
    assert (whole.parent.trace_id, whole.parent.span_id) == (trace.trace_id, trace.root_id)
    assert act.parent == whole.context
    assert call.parent == act.context
    assert whole.attributes == {"finetune.uid": UID, "finetune.attempt": 0, "finetune.job": "team-a/run"}


def test_a_pass_that_calls_nobody_has_nothing_to_show() -> None:
    traces, kept = make()
    reconcile(traces, [])
    assert kept.spans == []


def test_what_is_not_sampled_makes_no_span() -> None:
    traces, kept = make(ratio=0)
    reconcile(traces, [CREATION])
    assert kept.spans == []


def test_another_attempt_is_another_trace() -> None:
    traces, kept = make()
    reconcile(traces, [CREATION], attempt=3)
    assert {span.context.trace_id for span in kept.spans if span.context} == {AttemptTrace.of(UID, 3).trace_id}


@pytest.mark.parametrize("status", [0, 409, 503])
def test_a_call_that_failed_is_marked_and_so_is_the_pass(status: int) -> None:
    traces, kept = make()
    error = ApiError(status, "Reason", "words", "POST jobs")
    with pytest.raises(ApiError):
        reconcile(traces, [("POST", CREATION[1], status)], fault=error)
    assert [span.status.is_ok for span in kept.spans] == [False, False, False]
    assert ("http.response.status_code" in (kept.spans[-1].attributes or {})) == bool(status)


def test_what_nobody_records_costs_nothing_and_goes_nowhere() -> None:
    with step("observe") as none:
        record_call(*CREATION, 0.01)
    assert none is None


def test_tasks_record_apart() -> None:
    async def work(name: str, others: asyncio.Barrier) -> int:
        with recording(name) as done:
            await others.wait()
            for _ in range(len(name)):
                record_call(*CREATION, 0.01)
                await asyncio.sleep(0)
        return done.calls

    async def run() -> list[int]:
        others = asyncio.Barrier(2)
        return await asyncio.gather(work("a", others), work("bcd", others))

    assert asyncio.run(run()) == [1, 3]


@pytest.mark.parametrize(
    ("path", "resource"),
    [
        ("/apis/batch/v1/namespaces/team-a/jobs/run-0", "jobs"),
        ("/apis/finetune.dev/v1alpha1/namespaces/team-a/finetunejobs/run/status", "finetunejobs/status"),
        ("/api/v1/namespaces/team-a/pods?labelSelector=a%3Db", "pods"),
        ("/api/v1/nodes?limit=500", "nodes"),
        ("/apis/authentication.k8s.io/v1/tokenreviews", "tokenreviews"),
        ("/apis/kueue.x-k8s.io/v1beta2", "discovery"),
        ("/api/v1/namespaces/team-a", "namespaces"),
    ],
)
def test_a_resource_is_named_without_the_names_of_objects(path: str, resource: str) -> None:
    assert name_resource(path) == resource


def test_the_operator_loads_nothing_of_opentelemetry_unless_asked() -> None:
    code = "import sys, finetune_operator.main; assert not [name for name in sys.modules if name.startswith('opentelemetry')]"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stderr
