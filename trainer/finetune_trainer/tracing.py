"""Spans of a run: children of its attempt's, which the operator names. Nothing of OpenTelemetry is loaded where tracing is off."""

import contextlib
import logging
import secrets
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any, Final, Self

from finetune_api.exporter_log import thin_exporter_log
from finetune_api.names import ENV_NODE_RANK, ENV_POD_NAME, ENV_TRACEPARENT, ENV_TRACING_ENDPOINT, ENV_TRACING_HEADERS
from finetune_api.trainer_config import TrainerConfig

EXPORT_SECONDS: Final = 5.0
"""How long one request to the receiver of spans may take."""
FLUSH_SECONDS: Final = 3.0
"""How long the end of the process waits for the last spans: what has to be said is in the summary by then."""
_SAY_SECONDS: Final = 600.0
"""How often the log says that no spans can be sent."""

logger = logging.getLogger(__name__)
Attribute = str | int | float | bool
OpenSpan = Callable[..., AbstractContextManager[None]]
"""Opens a span: its name, and its attributes by name."""


@contextlib.contextmanager
def no_span(name: str, **attributes: Attribute) -> Iterator[None]:
    """Open none."""
    del name, attributes
    yield


class Tracing:
    """The spans of one process. Every method may be called from any thread, and none raises.

    :param tracer: OpenTelemetry's; None where tracing is off.
    :param end: sends what is left.
    """

    def __init__(self, tracer: Any = None, end: Callable[[], None] = lambda: None, parent: Any = None) -> None:  # noqa: ANN401
        self._tracer = tracer
        self._end = end
        self._open: list[Any] = []
        self._closed = False
        self._base = parent
        if tracer is not None:
            whole = tracer.start_span("trainer", context=parent)
            self._open.append(whole)
            self._base = self._set_in_context(whole)

    @classmethod
    def from_environ(cls, config: TrainerConfig, environ: Mapping[str, str]) -> Self:
        """Begin to send spans where the environment says so."""
        endpoint = environ.get(ENV_TRACING_ENDPOINT, "").strip().rstrip("/")
        if not endpoint:
            return cls()
        try:
            tracer, end, parent = _open_sdk(endpoint, config, environ)
        except (ImportError, ValueError) as error:
            logger.warning("no spans are sent: %s: %s", type(error).__name__, error)
            return cls()
        return cls(tracer, end, parent)

    @contextlib.contextmanager
    def span(self, name: str, **attributes: Attribute) -> Iterator[None]:
        """Open a span in this block: a child of the one that this thread has open, or of the whole process'."""
        if self._tracer is None:
            yield
            return
        from opentelemetry import context, trace  # noqa: PLC0415  loaded by now

        within = None if trace.get_current_span().get_span_context().is_valid else self._base
        span = self._tracer.start_span(name, context=within, attributes={f"finetune.{key}": value for key, value in attributes.items()})
        self._open.append(span)
        token = context.attach(self._set_in_context(span))
        try:
            yield
        except BaseException as error:
            span.set_status(trace.StatusCode.ERROR, f"{type(error).__name__}: {error}"[:512])
            raise
        finally:
            context.detach(token)
            with contextlib.suppress(ValueError):  # closed meanwhile, by another thread
                self._open.remove(span)
            span.end()

    def close(self, outcome: str = "", reason: str = "", exit_code: int = 0, **attributes: Attribute) -> None:
        """End what is open, as the process is about to; wait :data:`FLUSH_SECONDS` at the most for the spans to be sent."""
        if self._tracer is None or self._closed:
            return
        self._closed = True
        from opentelemetry import trace  # noqa: PLC0415  loaded by now

        told: dict[str, Attribute] = {"outcome": outcome, "reason": reason, "exit_code": exit_code, **attributes}
        for key, value in told.items():
            self._open[0].set_attribute(f"finetune.{key}", value)
        if outcome == "failed":
            self._open[0].set_status(trace.StatusCode.ERROR, reason)
        for span in reversed(self._open.copy()):
            span.end()
        ending = threading.Thread(target=self._end, name="spans", daemon=True)
        ending.start()
        ending.join(FLUSH_SECONDS)

    @staticmethod
    def _set_in_context(span: Any) -> Any:  # noqa: ANN401
        from opentelemetry import trace  # noqa: PLC0415  loaded by now

        return trace.set_span_in_context(span)


def _open_sdk(endpoint: str, config: TrainerConfig, environ: Mapping[str, str]) -> tuple[Any, Callable[[], None], Any]:
    """Return a tracer, what ends it, and the attempt's span as the context of what follows."""
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415  loaded only where it is wanted
    from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
    from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
    from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
    from opentelemetry.sdk.trace.id_generator import IdGenerator  # noqa: PLC0415
    from opentelemetry.sdk.trace.sampling import ALWAYS_ON  # noqa: PLC0415
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator  # noqa: PLC0415
    from opentelemetry.util.re import parse_env_headers  # noqa: PLC0415

    class SystemIds(IdGenerator):
        """Identifiers from the system. The SDK's own come from Python's random numbers, which training seeds: they would repeat
        themselves, and drawing them would change what the run learns.
        """

        def generate_span_id(self) -> int:
            return secrets.randbits(64) or 1

        def generate_trace_id(self) -> int:
            return secrets.randbits(128) or 1

    thin_exporter_log(_SAY_SECONDS)
    headers = dict(parse_env_headers(environ.get(ENV_TRACING_HEADERS, ""), liberal=True))
    about: dict[str, Attribute] = {
        "service.name": "finetune-trainer",
        "k8s.namespace.name": config.job.namespace,
        "k8s.pod.name": environ.get(ENV_POD_NAME, ""),
        "finetune.job": f"{config.job.namespace}/{config.job.name}",
        "finetune.uid": config.job.uid,
        "finetune.attempt": config.attempt,
        "finetune.node_rank": int(environ.get(ENV_NODE_RANK, "0")),
        "finetune.objective": config.method.objective,
    }
    # Whether the attempt is traced was decided by whoever gave the address.
    provider = TracerProvider(ALWAYS_ON, Resource.create(about), shutdown_on_exit=False, id_generator=SystemIds())
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(f"{endpoint}/v1/traces", headers=headers, timeout=EXPORT_SECONDS)))
    parent = TraceContextTextMapPropagator().extract({"traceparent": environ.get(ENV_TRACEPARENT, "")})
    return provider.get_tracer("finetune_trainer"), provider.shutdown, parent
