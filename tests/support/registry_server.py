"""A real OCI registry (CNCF distribution) and a Google Cloud Storage server for tests."""

import json
import os
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from finetune_devcluster.binaries import ensure_binaries
from finetune_devcluster.ports import find_free_ports
from finetune_devcluster.processes import wait_until

USER = "tester"
PASSWORD = "correct-horse"
HTPASSWD = f"{USER}:$2b$04$E8zBDeqgyzThSX4RXsSSDOtXwMziGcjn7e7oVh2UwBTyzHc3NlqBW\n"
"""The password's bcrypt hash."""


@contextmanager
def run_registry(folder: Path, htpasswd: str | None = None, address: str = "127.0.0.1") -> Iterator[str]:
    """Run a registry over ``folder``; yields its URL.

    :param htpasswd: lines of user names and bcrypt hashes; without them anyone may push.
    :param address: where it listens.
    """
    binary = ensure_binaries(["registry"])["registry"]
    (port,) = find_free_ports(1)
    (folder / "data").mkdir(parents=True)
    config = {
        "version": 0.1,
        "log": {"accesslog": {"disabled": True}, "level": "error"},
        "storage": {"filesystem": {"rootdirectory": str(folder / "data")}, "delete": {"enabled": True}},
        "http": {"addr": f"{address}:{port}", "secret": "for-tests"},
    }
    if htpasswd is not None:
        (folder / "htpasswd").write_text(htpasswd)
        config["auth"] = {"htpasswd": {"realm": "tests", "path": str(folder / "htpasswd")}}
    (folder / "config.yml").write_text(json.dumps(config))
    url = f"http://{address}:{port}"
    with _serve([str(binary), "serve", str(folder / "config.yml")], url, "/v2/", folder / "log"):
        yield url


@contextmanager
def run_gcs(folder: Path, bucket: str) -> Iterator[str]:
    """Run a Google Cloud Storage server over ``folder`` with ``bucket``; yields its URL."""
    binary = ensure_binaries(["fake-gcs-server"])["fake-gcs-server"]
    (port,) = find_free_ports(1)
    url = f"http://127.0.0.1:{port}"
    (folder / "data" / bucket).mkdir(parents=True)
    command = [
        str(binary),
        "-scheme",
        "http",
        "-host",
        "127.0.0.1",
        "-port",
        str(port),
        "-external-url",
        url,
        "-public-host",
        f"127.0.0.1:{port}",
    ]
    command += ["-filesystem-root", str(folder / "data"), "-log-level", "error"]
    with _serve(command, url, f"/storage/v1/b/{bucket}", folder / "log"):
        yield url


@contextmanager
def _serve(command: list[str], url: str, probe: str, log: Path) -> Iterator[None]:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def answers() -> bool:
        try:
            opener.open(url + probe, timeout=2).close()
        except urllib.error.HTTPError as error:
            with error:
                return error.code == 401
        except OSError:
            return False
        return True

    with log.open("wb") as stream:
        server = subprocess.Popen(command, stdout=stream, stderr=stream, env={**os.environ, "OTEL_TRACES_EXPORTER": "none"})
        try:
            assert wait_until(answers, 60, interval=0.05), log.read_text()
            yield
        finally:
            server.kill()
            server.wait(10)
