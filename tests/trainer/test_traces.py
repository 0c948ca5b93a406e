"""The trainer's spans, sent to a real receiver, as children of the attempt that the operator names."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from finetune_api.names import ENV_TRACEPARENT, ENV_TRACING_ENDPOINT, ENV_TRACING_HEADERS
from finetune_api.tracing import AttemptTrace
from tests.support.span_receiver import ReceivedSpan, SpanReceiver, run_span_receiver
from tests.support.trainer_process import Trainers
from tests.support.trainer_workspace import make_config

pytestmark = pytest.mark.torch
TRACE = AttemptTrace.of("uid-traced", 0)
SHORT: dict[str, Any] = {"training": {"maxSteps": 6, "evalSteps": 3, "checkpoint": {"everySteps": 3}}}


@pytest.fixture(scope="module")
def span_receiver() -> Iterator[SpanReceiver]:
    with run_span_receiver() as receiver:
        yield receiver


def environ(endpoint: str) -> dict[str, str]:
    return {ENV_TRACING_ENDPOINT: endpoint, ENV_TRACEPARENT: TRACE.traceparent, ENV_TRACING_HEADERS: "authorization=Bearer%20tenant"}


@pytest.fixture(scope="module")
def spans(trainers: Trainers, workspace: Path, span_receiver: SpanReceiver) -> list[ReceivedSpan]:
    """The spans of one whole run."""
    config = make_config(workspace, "traced", **SHORT)
    code, process = trainers.run(config, environ(span_receiver.endpoint))
    assert code == 0, process.log
    return span_receiver.of_trace(TRACE.trace_id)


def test_all_spans_are_of_the_attempt_and_every_parent_is_known(spans: list[ReceivedSpan], span_receiver: SpanReceiver) -> None:
    assert len(spans) == len(span_receiver.spans)
    known = {span.span_id for span in spans} | {f"{TRACE.root_id:016x}"}
    assert {span.parent_id for span in spans} <= known
    (whole,) = [span for span in spans if span.parent_id == f"{TRACE.root_id:016x}"]
    assert (whole.name, whole.attributes["finetune.outcome"], whole.attributes["finetune.exit_code"]) == ("trainer", "completed", 0)
    assert {headers["authorization"] for headers in span_receiver.headers} == {"Bearer tenant"}
    assert whole.resource["service.name"] == "finetune-trainer"
    assert whole.resource["finetune.uid"] == "uid-traced"


def test_every_part_of_a_run_has_its_span_within_the_part_it_belongs_to(spans: list[ReceivedSpan]) -> None:
    names = {span.span_id: span.name for span in spans}
    found = {(names.get(span.parent_id, ""), span.name) for span in spans}
    parts = {(within, name) for within in ("trainer",) for name in ("load", "preflight", "train", "evaluate", "upload")}
    assert parts | {("train", "evaluate")} <= found, found
    assert "checkpoint" in names.values()
    assert [span.attributes["finetune.what"] for span in spans if span.name == "load"] == ["files", "model"]
    assert {span.attributes["finetune.step"] for span in spans if span.name == "checkpoint"} >= {3}
    assert len(names) == len(spans), "identifiers repeat themselves"
    for span in spans:
        assert 0 < span.begun <= span.ended


def test_a_run_that_fails_says_where(trainers: Trainers, workspace: Path, span_receiver: SpanReceiver) -> None:
    before = len(span_receiver.spans)
    config = make_config(workspace, "traced-and-lost", model={"uri": f"file://{workspace}/no-such-model"})
    code, process = trainers.run(config, environ(span_receiver.endpoint))
    assert code != 0
    failed = {span.name: span for span in span_receiver.spans[before:] if span.failed}
    assert failed.keys() == {"load", "trainer"}, process.log
    assert "no-such-model" in failed["load"].words


def test_a_traced_run_learns_what_one_that_is_not_learns(trainers: Trainers, workspace: Path, spans: list[ReceivedSpan]) -> None:
    assert spans
    code, process = trainers.run(make_config(workspace, "untraced", **SHORT))
    assert code == 0, process.log
    curves = [
        [(line["step"], line["loss"]) for line in map(json.loads, file.read_text().splitlines()) if "loss" in line]
        for name in ("traced", "untraced")
        for file in [workspace / "out" / name / "adapter" / "metrics.jsonl"]
    ]
    assert curves[0] == curves[1]


def test_a_receiver_that_never_answers_changes_nothing(trainers: Trainers, workspace: Path, span_receiver: SpanReceiver) -> None:
    span_receiver.proceed.clear()
    try:
        code, process = trainers.run(make_config(workspace, "unheard", training={"maxSteps": 1}), environ(span_receiver.endpoint))
    finally:
        span_receiver.proceed.set()
    assert code == 0, process.log
    assert process.summary.outcome == "completed"


def test_without_an_address_nothing_of_opentelemetry_is_loaded(trainers: Trainers) -> None:
    process = trainers.call(_open_nothing)
    assert process.wait() == 0, process.log


def _open_nothing() -> None:
    import sys

    from finetune_api.trainer_config import TrainerConfig
    from finetune_trainer.tracing import Tracing

    for name in [name for name in sys.modules if name.startswith("opentelemetry")]:
        del sys.modules[name]  # libraries that the server of processes has loaded may have brought it
    tracing = Tracing.from_environ(TrainerConfig.model_construct(), {})
    with tracing.span("load"):
        pass
    tracing.close()
    assert not [name for name in sys.modules if name.startswith("opentelemetry")]
