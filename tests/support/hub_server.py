"""A local server that speaks as much of the hub's protocol as its client uses for models and datasets."""

import hashlib
import http.server
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

from tests.support.object_store import Faults, run_server


@dataclass
class Repository:
    """One repository: its files at one commit, and the names (branches, tags) of that commit."""

    files: dict[str, bytes]
    commit: str = "0123456789abcdef0123456789abcdef01234567"
    names: tuple[str, ...] = ("main",)
    token: str | None = None
    card: dict[str, object] | None = None


@dataclass
class Hub:
    """The hub's repositories by ``models/org/name`` and ``datasets/org/name``."""

    repositories: dict[str, Repository] = field(default_factory=dict)
    faults: Faults = field(default_factory=Faults)
    url: str = ""


_API = re.compile(r"^/api/(models|datasets)/([^/]+/[^/]+)(?:/revision/([^/]+))?$")
_RESOLVE = re.compile(r"^/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)$")


@contextmanager
def run_hub(hub: Hub) -> Iterator[Hub]:
    """Serve ``hub``; sets its URL."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None: ...  # noqa: A002

        def answer(self) -> None:
            path = urlsplit(self.path).path
            hub.faults.seen.append(f"{self.command} {path}")
            verdict = hub.faults.rule(self.command, path)
            if isinstance(verdict, int):
                return self.reply(verdict)
            if match := _API.match(path):
                return self.describe(match[1], match[2], unquote(match[3] or "main"))
            if match := _RESOLVE.match(path):
                kind = "datasets" if match[1] else "models"
                return self.resolve(kind, match[2], unquote(match[3]), unquote(match[4]), cut=verdict == "truncate")
            return self.reply(404)

        def find(self, kind: str, name: str, revision: str) -> Repository | None:
            repository = hub.repositories.get(f"{kind}/{name}")
            if repository is None:
                self.reply(404, headers={"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"})
            elif repository.token is not None and self.headers.get("Authorization") != f"Bearer {repository.token}":
                self.reply(403, headers={"X-Error-Code": "GatedRepo", "X-Error-Message": "Access to this repository is restricted"})
            elif revision not in (repository.commit, *repository.names):
                self.reply(404, headers={"X-Error-Code": "RevisionNotFound", "X-Error-Message": "Invalid rev id"})
            else:
                return repository
            return None

        def describe(self, kind: str, name: str, revision: str) -> None:
            repository = self.find(kind, name, revision)
            if repository is None:
                return
            siblings = [{"rfilename": path, "size": len(content), "blobId": "x"} for path, content in repository.files.items()]
            answer = {
                "_id": "1",
                "id": name,
                "sha": repository.commit,
                "private": False,
                "siblings": siblings,
                "tags": [],
                "downloads": 0,
                "likes": 0,
                "cardData": repository.card,
            }
            self.reply(200, json.dumps(answer).encode(), {"Content-Type": "application/json"})

        def resolve(self, kind: str, name: str, revision: str, path: str, *, cut: bool) -> None:
            repository = self.find(kind, name, revision)
            if repository is None:
                return
            content = repository.files.get(path)
            headers = {"X-Repo-Commit": repository.commit}
            if content is None:
                self.reply(404, headers={**headers, "X-Error-Code": "EntryNotFound", "X-Error-Message": "Entry not found"})
                return
            headers["ETag"] = f'"{hashlib.sha256(content).hexdigest()}"'
            start = self.headers.get("Range")
            if start and (match := re.match(r"bytes=(\d+)-", start)):
                part = content[int(match[1]) :]
                headers["Content-Range"] = f"bytes {match[1]}-{len(content) - 1}/{len(content)}"
                self.reply(206, part, headers)
            else:
                self.reply(200, content, headers, cut=cut)

        def reply(self, status: int, content: bytes = b"", headers: dict[str, str] | None = None, *, cut: bool = False) -> None:
            self.send_response(status)
            for key, value in (headers or {}).items():
                self.send_header(key, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content[: len(content) // 2] if cut else content)
            self.close_connection = self.close_connection or cut

        do_GET = do_HEAD = answer  # noqa: N815

    with run_server(http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)) as server:
        hub.url = f"http://127.0.0.1:{server.server_port}"
        yield hub
