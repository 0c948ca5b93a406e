"""A receiver of spans by OTLP over HTTP, as a collector is one: it decodes what comes by OpenTelemetry's own protobuf, and keeps it."""

import contextlib
import gzip
import http.server
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest, ExportTraceServiceResponse
from opentelemetry.proto.common.v1.common_pb2 import KeyValue

from tests.support.object_store import run_server


@dataclass(frozen=True)
class ReceivedSpan:
    """One span, with identifiers as hexadecimal digits."""

    name: str
    trace_id: str
    span_id: str
    parent_id: str
    """Empty of a root."""
    begun: int
    ended: int
    """Unix time in nanoseconds."""
    kind: int
    failed: bool
    words: str
    """Why it failed."""
    attributes: dict[str, Any]
    resource: dict[str, Any]


@dataclass
class SpanReceiver:
    """What came, and what is answered."""

    endpoint: str
    spans: list[ReceivedSpan] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    status: int = 200
    proceed: threading.Event = field(default_factory=threading.Event)
    """Cleared, the receiver answers nobody."""

    def of_trace(self, trace_id: int) -> list[ReceivedSpan]:
        """Return the spans of one trace, in the order of their beginnings."""
        return sorted((span for span in self.spans if span.trace_id == f"{trace_id:032x}"), key=lambda span: span.begun)


@contextmanager
def run_span_receiver() -> Iterator[SpanReceiver]:
    """Run a receiver; every connection has a thread."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None: ...  # noqa: A002

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            receiver.proceed.wait()
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            assert self.path == "/v1/traces"
            assert self.headers["Content-Type"] == "application/x-protobuf"
            receiver.headers.append({name.lower(): value for name, value in self.headers.items()})
            if receiver.status == 200:
                receiver.spans.extend(_decode(body))
            answer = ExportTraceServiceResponse().SerializeToString()
            with contextlib.suppress(OSError):  # who was kept waiting may have gone
                self.send_response(receiver.status)
                self.send_header("Content-Type", "application/x-protobuf")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    receiver = SpanReceiver(f"http://127.0.0.1:{server.server_port}")
    receiver.proceed.set()
    try:
        with run_server(server):
            yield receiver
    finally:
        receiver.proceed.set()


def _decode(body: bytes) -> Iterator[ReceivedSpan]:
    for group in ExportTraceServiceRequest.FromString(body).resource_spans:
        resource = _read(group.resource.attributes)
        for scope in group.scope_spans:
            for span in scope.spans:
                yield ReceivedSpan(
                    name=span.name,
                    trace_id=span.trace_id.hex(),
                    span_id=span.span_id.hex(),
                    parent_id=span.parent_span_id.hex(),
                    begun=span.start_time_unix_nano,
                    ended=span.end_time_unix_nano,
                    kind=span.kind,
                    failed=span.status.code == span.status.STATUS_CODE_ERROR,
                    words=span.status.message,
                    attributes=_read(span.attributes),
                    resource=resource,
                )


def _read(attributes: Any) -> dict[str, Any]:
    def value(each: KeyValue) -> Any:
        kind = each.value.WhichOneof("value")
        return getattr(each.value, kind) if kind is not None else None

    return {each.key: value(each) for each in attributes}
