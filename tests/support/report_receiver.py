"""A report receiver over HTTPS with a certificate of its own, as the operator's; it keeps what it gets."""

import http.server
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from finetune_api.report import TrainerReport
from tests.support.https_server import make_certificate
from tests.support.object_store import run_server


@dataclass
class ReportReceiver:
    """What a receiver got, and how it behaves."""

    url: str
    authority: str
    token_file: Path
    reports: list[TrainerReport] = field(default_factory=list)
    tokens: list[str] = field(default_factory=list)
    proceed: threading.Event = field(default_factory=threading.Event)
    """Cleared, the receiver answers nobody."""
    status: int = 202

    def build_config(self, interval: float) -> dict[str, Any]:
        """Return a trainer's ``reporting`` for this receiver."""
        return {"url": self.url, "caCertificate": self.authority, "tokenPath": str(self.token_file), "intervalSeconds": interval}


@contextmanager
def run_receiver(folder: Path) -> Iterator[ReportReceiver]:
    """Run a receiver; every connection has a thread."""
    certificate, key = make_certificate(folder)
    token_file = folder / "token"
    token_file.write_text("token-1\n")

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None: ...  # noqa: A002

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            receiver.proceed.wait()
            receiver.tokens.append(self.headers["Authorization"])
            receiver.reports.append(TrainerReport.model_validate_json(body, strict=True))
            self.send_response(receiver.status)
            self.send_header("Content-Length", "0")
            self.end_headers()

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    receiver = ReportReceiver(f"https://localhost:{server.server_port}/v1/reports", certificate.read_text(), token_file)
    receiver.proceed.set()
    try:
        with run_server(server):
            yield receiver
    finally:
        receiver.proceed.set()
