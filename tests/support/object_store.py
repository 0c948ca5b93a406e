"""A real S3 server for tests, and a proxy before it that fails in chosen ways."""

import http.client
import os
import secrets
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

from finetune_devcluster.binaries import ensure_binaries
from finetune_devcluster.object_store import build_environment, build_versitygw, ensure_bucket
from finetune_devcluster.ports import find_free_ports
from finetune_devcluster.state import ObjectStore


@contextmanager
def run_object_store(folder: Path) -> Iterator[ObjectStore]:
    """Run versitygw over ``folder``, with a bucket, until the end of the block."""
    binary = ensure_binaries(["versitygw"])["versitygw"]
    (port,) = find_free_ports(1)
    store = ObjectStore(f"http://127.0.0.1:{port}", "", "bucket", "tester", secrets.token_hex(16))
    for name in ("data", "metadata"):
        (folder / name).mkdir(parents=True)
    with (folder / "log").open("wb") as log:
        command = build_versitygw(binary, "127.0.0.1", port, folder / "metadata", folder / "data")
        server = subprocess.Popen(command, env={**os.environ, **build_environment(store)}, stdout=log, stderr=log)
        try:
            ensure_bucket(store)
            yield store
        finally:
            server.kill()
            server.wait(10)


@dataclass
class Faults:
    """What the proxy does to requests: each rule is asked for each request, and says what to answer, or None."""

    rule: Callable[[str, str], int | str | None] = lambda _method, _path: None
    """Given method and path, returns a status to answer with, ``"drop"`` (close without an answer), ``"truncate"`` (half the body of the
    answer), or None (pass on).
    """
    seen: list[str] = field(default_factory=list)
    """``METHOD /path`` of every request."""


@contextmanager
def run_faulty_proxy(target: str, faults: Faults) -> Iterator[str]:
    """Run a proxy before the server at the URL ``target``; yields the proxy's own URL."""
    host = urlsplit(target).netloc

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None: ...  # noqa: A002

        def forward(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            faults.seen.append(f"{self.command} {self.path}")
            verdict = faults.rule(self.command, self.path)
            if verdict == "drop":
                self.close_connection = True
                return
            if isinstance(verdict, int):
                self.send_response(verdict)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            try:
                answer, content = self.ask(body)
            except OSError:  # the server has given the upload up
                self.close_connection = True
                return
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                if name.lower() not in ("connection", "transfer-encoding", "content-length", "date", "server"):
                    self.send_header(name, value)
            length = answer.headers.get("Content-Length") if self.command == "HEAD" else len(content)
            self.send_header("Content-Length", str(length or 0))
            self.end_headers()
            if verdict == "truncate":
                self.wfile.write(content[: len(content) // 2])
                self.close_connection = True
            else:
                self.wfile.write(content)

        def ask(self, body: bytes) -> tuple[http.client.HTTPResponse, bytes]:
            with closing(http.client.HTTPConnection(host, timeout=20)) as connection:
                connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
                for name, value in self.headers.items():
                    if name.lower() not in ("expect", "connection"):
                        connection.putheader(name, value)
                connection.endheaders(body)
                answer = connection.getresponse()
                return answer, answer.read()

        do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = forward  # noqa: N815

    with run_server(ThreadingHTTPServer(("127.0.0.1", 0), Handler)) as server:
        yield f"http://127.0.0.1:{server.server_port}"


@contextmanager
def run_server(server: ThreadingHTTPServer) -> Iterator[ThreadingHTTPServer]:
    """Serve in a thread until the end of the block."""
    server.daemon_threads = True
    server.block_on_close = False
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)


def fail_first(count: int, verdict: int | str, method: str = "", fragment: str = "") -> Callable[[str, str], int | str | None]:
    """Return a rule that applies ``verdict`` to the first ``count`` requests of ``method`` whose path has ``fragment`` in it."""
    left = [count]
    lock = threading.Lock()

    def rule(seen_method: str, path: str) -> int | str | None:
        with lock:
            if left[0] > 0 and seen_method.startswith(method) and fragment in path:
                left[0] -= 1
                return verdict
        return None

    return rule
