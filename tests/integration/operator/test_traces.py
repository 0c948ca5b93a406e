"""What an operator with tracing on tells a receiver of spans, about real runs on a real API server."""

import pytest

from finetune_api.exit_codes import ExitCode
from finetune_api.names import ENV_TRACEPARENT, ENV_TRACING_ENDPOINT, ENV_TRACING_HEADERS
from finetune_api.tracing import AttemptTrace
from tests.integration.operator.test_reports_over_https import Sender
from tests.support.live_run import LiveRun, NewRun, wait_until
from tests.support.operator_process import OperatorProcess
from tests.support.span_receiver import ReceivedSpan, SpanReceiver
from tests.support.world import build_summary

pytestmark = pytest.mark.cluster


def wait_for_trace(receiver: SpanReceiver, run: LiveRun) -> tuple[AttemptTrace, list[ReceivedSpan]]:
    """Return the trace of the run's first attempt once its last span, that of the whole attempt, is there."""
    trace = AttemptTrace.of(run.get()["metadata"]["uid"], 0)
    wait_until(lambda: any(not span.parent_id for span in receiver.of_trace(trace.trace_id)), f"the trace of {run.name} is whole")
    return trace, receiver.of_trace(trace.trace_id)


def test_a_run_is_one_trace_of_passes_calls_and_reports(new_run: NewRun, span_receiver: SpanReceiver) -> None:
    sender = Sender(new_run("traced"))
    sender.run.wait_phase("Running")
    assert sender.send(sender.report(7)) == 202
    sender.run.end_pod(0, build_summary())
    sender.run.wait_phase("Succeeded")
    trace, spans = wait_for_trace(span_receiver, sender.run)

    (whole,) = [span for span in spans if not span.parent_id]
    assert (whole.name, whole.span_id, whole.failed) == ("attempt", f"{trace.root_id:016x}", False)
    assert whole.attributes["finetune.phase"] == "Succeeded"
    assert whole.attributes["finetune.job"] == f"{sender.run.namespace}/traced"
    assert {span.parent_id for span in spans} - {span.span_id for span in spans} == {""}, "every parent is in the trace"

    passes = [span for span in spans if span.name == "reconcile"]
    assert passes
    assert {span.parent_id for span in passes} == {whole.span_id}
    by_id = {span.span_id: span for span in spans}
    (creation,) = [span for span in spans if span.name == "POST jobs"]
    assert by_id[creation.parent_id].name == "act: CreateJob"
    assert by_id[by_id[creation.parent_id].parent_id].name == "reconcile"
    assert (creation.attributes["k8s.resource"], creation.attributes["http.response.status_code"]) == ("jobs", 201)
    assert {"observe", "plan", "publish"} <= {span.name for span in spans}
    assert all(span.attributes["http.response.status_code"] for span in spans if span.name == "PATCH finetunejobs/status")

    (report,) = [span for span in spans if span.name == "report"]
    assert (report.parent_id, report.attributes["http.response.status_code"]) == (whole.span_id, 202)
    assert {span.resource["service.name"] for span in spans} == {"finetune-operator"}
    assert {span.attributes["finetune.attempt"] for span in [whole, report, *passes]} == {0}


def test_the_pod_is_told_its_place_in_the_trace(new_run: NewRun, span_receiver: SpanReceiver) -> None:
    run = new_run()
    uid = run.apply()["metadata"]["uid"]
    env = {each["name"]: each for each in run.wait_job()["spec"]["template"]["spec"]["containers"][0]["env"]}
    assert env[ENV_TRACEPARENT]["value"] == AttemptTrace.of(uid, 0).traceparent
    assert env[ENV_TRACING_ENDPOINT]["value"] == span_receiver.endpoint
    secret = env[ENV_TRACING_HEADERS]["valueFrom"]["secretKeyRef"]
    assert secret == {"name": "otlp", "key": "headers", "optional": True}, "a Secret of the run's own namespace, which may be missing"


def test_a_run_that_fails_says_so_in_its_trace(new_run: NewRun, span_receiver: SpanReceiver) -> None:
    run = new_run()
    run.apply()
    run.end_pod(ExitCode.CONFIG_INVALID)
    run.wait_phase("Failed")
    _, spans = wait_for_trace(span_receiver, run)
    (whole,) = [span for span in spans if not span.parent_id]
    assert whole.failed
    assert whole.attributes["finetune.reason"] == run.condition()["reason"]
    assert whole.words.startswith(run.condition()["reason"])


def test_headers_go_with_the_spans_and_stay_out_of_log_and_jobs(
    new_run: NewRun, span_receiver: SpanReceiver, operator: OperatorProcess
) -> None:
    run = new_run()
    run.apply()
    wait_until(lambda: span_receiver.headers, "spans have come")
    assert {headers.get("authorization") for headers in span_receiver.headers} == {"Bearer of-the-operator"}
    assert "of-the-operator" not in str(run.wait_job())
    assert "of-the-operator" not in operator.read_log()
