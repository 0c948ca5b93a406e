"""Spans of what was recorded, sent by OTLP over HTTP from a thread of the SDK's. What can't be sent is dropped: nothing waits for it."""

import asyncio
import logging
import random
import threading
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Final, Self

from aiohttp import web
from aiohttp.typedefs import Handler
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags
from opentelemetry.util.re import parse_env_headers

from finetune_api.exporter_log import thin_exporter_log
from finetune_api.status import FineTuneJobStatus
from finetune_api.tracing import AttemptTrace
from finetune_operator.kube.store import Store
from finetune_operator.log_context import read_subject
from finetune_operator.metrics.operation import read_version
from finetune_operator.objects import parse_time
from finetune_operator.observation import Observation
from finetune_operator.recording import CALL_VERB, Attribute, Step, recording
from finetune_operator.reports.receiver import RUN
from finetune_operator.settings import TracingSettings

EXPORT_SECONDS: Final = 5.0
"""How long one request to the receiver of spans may take."""
END_SECONDS: Final = 3.0
"""How long the end of the process waits for the last spans."""
QUEUE_SPANS: Final = 8192
"""Spans that wait to be sent at the most: a burst of a thousand runs. Beyond that they are dropped."""
SAY_SECONDS: Final = 60.0
"""How often the log says that no spans can be sent."""

log = logging.getLogger(__name__)
Reconcile = Callable[[str], Awaitable[float | None]]


class Traces:
    """Makes spans of steps and hands them to ``processor``.

    A pass without a call to the API server has nothing to show and makes none: of a run that trains, that is nearly every pass.
    """

    def __init__(self, settings: TracingSettings, processor: SpanProcessor, resource: Resource, store: Store) -> None:
        self._ratio = settings.ratio
        self._processor = processor
        self._resource = resource
        self._store = store
        self._scope = InstrumentationScope("finetune_operator", read_version())
        self._random = random.Random()  # noqa: S311  identifiers of spans are no secrets

    @classmethod
    def open(cls, settings: TracingSettings, identity: str, namespace: str, store: Store) -> Self:
        """Begin to send spans to the receiver that ``settings`` names."""
        thin_exporter_log(SAY_SECONDS)
        headers = dict(parse_env_headers(settings.headers, liberal=True))
        exporter = OTLPSpanExporter(f"{settings.endpoint}/v1/traces", headers=headers, timeout=EXPORT_SECONDS)
        about = {"service.name": "finetune-operator", "service.version": read_version(), "service.instance.id": identity}
        resource = Resource.create({**about, "k8s.pod.name": identity, "k8s.namespace.name": namespace})
        log.info("spans of %g of all attempts go to %s", settings.ratio, settings.endpoint)
        return cls(settings, BatchSpanProcessor(exporter, max_queue_size=QUEUE_SPANS), resource, store)

    def trace_reconcile(self, reconcile: Reconcile) -> Reconcile:
        """Return ``reconcile`` with a span for each pass."""

        async def traced(uid: str) -> float | None:
            done: Step | None = None
            try:
                with recording("reconcile") as done:
                    return await reconcile(uid)
            finally:
                if done is not None and done.calls:
                    attempt = read_subject().get("attempt")
                    self._emit(done, uid, attempt if isinstance(attempt, int) else 0, SpanKind.INTERNAL)

        return traced

    @web.middleware
    async def trace_report(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Make a span of each report whose sender proved to be the run's own."""
        with recording("report") as done:
            answer = await handler(request)
        if (uid := request.get(RUN)) is not None:
            done.attributes["http.response.status_code"] = answer.status
            done.fault = f"HTTP {answer.status}" if answer.status >= 400 else ""
            status = (self._store.finetunejob(uid) or {}).get("status") or {}
            self._emit(done, uid, status.get("attempt") or 0, SpanKind.SERVER)
        return answer

    def note(self, observation: Observation, before: FineTuneJobStatus, after: FineTuneJobStatus) -> None:
        """Make the span of an attempt that has ended: the run has, or goes on in another attempt."""
        ended = after.phase is not None and after.phase.is_terminal and not (before.phase is not None and before.phase.is_terminal)
        if not ended and (before.attempt is None or before.attempt == after.attempt):
            return
        attempt = (after.attempt if ended else before.attempt) or 0
        trace = AttemptTrace.of(observation.ref.uid, attempt)
        if not trace.is_sampled(self._ratio):
            return
        begun = _begin_of(observation, before, attempt)
        verdict = next((each for each in after.conditions if each.type == "Succeeded"), None)
        reason = verdict.reason if ended and verdict is not None else "Replaced"
        step = Step("attempt", round(begun.timestamp() * 1e9) if begun is not None else time.time_ns(), time.time_ns())
        step.attributes = {"finetune.reason": reason, "finetune.restarts": after.restarts, "finetune.gpu_seconds": after.gpu_seconds}
        if ended:
            step.attributes["finetune.phase"] = str(after.phase)
            step.fault = "" if after.phase == "Succeeded" else f"{reason}: {verdict.message if verdict is not None else ''}"
        about: dict[str, Attribute] = {"finetune.job": f"{observation.ref.namespace}/{observation.ref.name}"}
        self._add(step, _context(trace.trace_id, trace.root_id), None, SpanKind.INTERNAL, {**_about(observation.ref.uid, attempt), **about})

    async def close(self) -> None:
        """Send what is left, for :data:`END_SECONDS` at the most."""
        ending = threading.Thread(target=self._processor.shutdown, daemon=True)
        ending.start()
        await asyncio.to_thread(ending.join, END_SECONDS)

    def _emit(self, step: Step, uid: str, attempt: int, kind: SpanKind) -> None:
        trace = AttemptTrace.of(uid, attempt)
        if not trace.is_sampled(self._ratio):
            return
        about = _about(uid, attempt)
        if job := read_subject().get("job"):
            about["finetune.job"] = str(job)
        self._add(step, self._new_context(trace.trace_id), _context(trace.trace_id, trace.root_id, is_remote=True), kind, about)

    def _add(self, step: Step, own: SpanContext, parent: SpanContext | None, kind: SpanKind, about: dict[str, Attribute]) -> None:
        span = ReadableSpan(
            step.name,
            context=own,
            parent=parent,
            resource=self._resource,
            attributes={**about, **step.attributes},
            kind=kind,
            status=Status(StatusCode.ERROR, step.fault[:512]) if step.fault else Status(),
            start_time=step.begun,
            end_time=step.ended,
            instrumentation_scope=self._scope,
        )
        self._processor.on_end(span)
        for child in step.steps:
            kind = SpanKind.CLIENT if CALL_VERB in child.attributes else SpanKind.INTERNAL
            self._add(child, self._new_context(own.trace_id), own, kind, {})

    def _new_context(self, trace_id: int) -> SpanContext:
        return _context(trace_id, self._random.getrandbits(64) or 1)


def _context(trace_id: int, span_id: int, *, is_remote: bool = False) -> SpanContext:
    return SpanContext(trace_id, span_id, is_remote, TraceFlags(TraceFlags.SAMPLED))


def _about(uid: str, attempt: int) -> dict[str, Attribute]:
    return {"finetune.uid": uid, "finetune.attempt": attempt}


def _begin_of(observation: Observation, before: FineTuneJobStatus, attempt: int) -> datetime | None:
    """Return when the attempt began: its Job, where that is still there; else its last pod, or the run."""
    if observation.job is not None and observation.attempt == attempt:
        return parse_time(observation.job["metadata"].get("creationTimestamp"))
    if attempt == 0 and observation.created is not None:
        return observation.created
    pod = before.pod
    return (pod.start_time if pod is not None else None) or before.start_time or datetime.now(UTC)
