"""An audit that could ask nobody is not one that found nothing."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest

from release.audit import Outcome, main

VULNERABILITY = {
    "id": "GHSA-0000-0000-0000",
    "modified": "2026-01-01T00:00:00Z",
    "summary": "reads one byte too many",
    "affected": [
        {
            "package": {"name": "aiohttp", "ecosystem": "PyPI"},
            "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "999"}]}],
        }
    ],
}


@contextmanager
def run_service(vulnerable: str = "") -> Iterator[str]:
    """A service that answers as osv.dev does, and knows one vulnerable package at most."""

    class Handler(BaseHTTPRequestHandler):
        def answer(self, body: Any) -> None:
            content = json.dumps(body).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def do_POST(self) -> None:
            queries = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["queries"]
            found = {"vulns": [{key: VULNERABILITY[key] for key in ("id", "modified")}]}
            self.answer({"results": [found if each["package"]["name"] == vulnerable else {} for each in queries]})

        def do_GET(self) -> None:
            self.answer(VULNERABILITY)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)


def test_packages_without_a_known_vulnerability_pass(capfd: pytest.CaptureFixture[str]) -> None:
    with run_service() as address:
        assert main(["--service", address]) == Outcome.CLEAN
    assert "audited" in capfd.readouterr().out


def test_a_vulnerable_package_is_named(capfd: pytest.CaptureFixture[str]) -> None:
    with run_service("aiohttp") as address:
        assert main(["--service", address]) == Outcome.VULNERABLE
    told = capfd.readouterr()
    assert "aiohttp" in told.out + told.err
    assert "upgrade" in told.err


def test_a_service_that_cannot_be_asked_is_no_pass(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    with run_service() as address:
        pass
    assert main(["--service", address]) == Outcome.UNKNOWN == 69
    told = capfd.readouterr()
    assert "NOT AUDITED" in told.err
    assert "audited" not in told.out
