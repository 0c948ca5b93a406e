"""A local server that speaks as much of the hub's protocol as its client uses to make a repository and commit files to it."""

import base64
import hashlib
import http.server
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote, urlsplit

from tests.support.object_store import Faults, run_server


@dataclass
class UploadHub:
    """One user's repositories."""

    token: str
    repositories: dict[str, dict[str, bytes]] = field(default_factory=dict)
    """Files of each repository's newest commit."""
    private: dict[str, bool] = field(default_factory=dict)
    commits: list[str] = field(default_factory=list)
    """Title of each commit."""
    objects: dict[str, bytes] = field(default_factory=dict)
    """Large files by their SHA-256."""
    faults: Faults = field(default_factory=Faults)
    url: str = ""

    @property
    def head(self) -> str:
        """The newest commit."""
        return hashlib.sha1(str(len(self.commits)).encode(), usedforsecurity=False).hexdigest()


@contextmanager
def run_upload_hub(hub: UploadHub) -> Iterator[UploadHub]:
    """Serve ``hub``; sets its URL."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None: ...  # noqa: A002

        def answer(self) -> None:
            path = unquote(urlsplit(self.path).path)
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            hub.faults.seen.append(f"{self.command} {path}")
            verdict = hub.faults.rule(self.command, path)
            if isinstance(verdict, int):
                return self.reply(verdict)
            if match := re.fullmatch("/objects/([0-9a-f]{64})", path):
                hub.objects[match[1]] = body
                return self.reply(200)
            if self.headers.get("Authorization") != f"Bearer {hub.token}":
                return self.reply(401, {"error": "Invalid username or password."})
            if path == "/api/repos/create":
                return self.create(json.loads(body))
            if path == "/api/validate-yaml":
                return self.reply(200, {"errors": [], "warnings": []})
            match = re.fullmatch(r"/(?:api/models/)?([^/]+/[^/.]+)(?:/|\.git/)?(.*)", path)
            if match is None or match[1] not in hub.repositories:
                return self.reply(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
            return self.on_repository(match[1], match[2], body)

        def create(self, asked: dict[str, Any]) -> None:
            name = f"{asked['organization']}/{asked['name']}"
            url = f"{hub.url}/{name}"
            if name in hub.repositories:
                return self.reply(409, {"url": url, "error": "exists"})
            hub.repositories[name], hub.private[name] = {}, asked.get("private", asked.get("visibility") == "private")
            return self.reply(200, {"url": url, "name": name, "id": name})

        def on_repository(self, name: str, rest: str, body: bytes) -> None:
            files = hub.repositories[name]
            if rest.startswith("preupload/"):
                modes = [
                    {"path": file["path"], "uploadMode": self.mode(file["path"]), "shouldIgnore": False}
                    for file in json.loads(body)["files"]
                ]
                return self.reply(200, {"files": modes})
            if rest == "info/lfs/objects/batch":
                wanted = json.loads(body)["objects"]
                return self.reply(200, {"transfer": "basic", "objects": [self.offer(entry) for entry in wanted]})
            if rest.startswith("commit/"):
                self.commit(files, [json.loads(line) for line in body.splitlines()])
                return self.reply(200, {"commitUrl": f"{hub.url}/{name}/commit/{hub.head}", "commitOid": hub.head, "success": True})
            if rest.startswith(("revision/", "tree/")) or not rest:
                entries = [
                    {"type": "file", "path": path, "rfilename": path, "size": len(content), "oid": "x"} for path, content in files.items()
                ]
                whole = {"id": name, "sha": hub.head, "private": True, "siblings": entries, "tags": [], "downloads": 0, "likes": 0}
                return self.reply(200, entries if rest.startswith("tree/") else whole)
            return self.reply(404)

        def mode(self, path: str) -> str:
            return "lfs" if path.endswith((".safetensors", ".gguf")) else "regular"

        def offer(self, entry: dict[str, Any]) -> dict[str, Any]:
            if entry["oid"] in hub.objects:
                return dict(entry)
            return {**entry, "actions": {"upload": {"href": f"{hub.url}/objects/{entry['oid']}", "header": {}}}}

        def commit(self, files: dict[str, bytes], lines: list[dict[str, Any]]) -> None:
            for line in lines:
                value = line["value"]
                if line["key"] == "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                elif line["key"] == "lfsFile":
                    files[value["path"]] = hub.objects[value["oid"]]
                elif line["key"] == "deletedFile":
                    del files[value["path"]]
                else:
                    hub.commits.append(value["summary"])

        def reply(self, status: int, content: Any = None, headers: dict[str, str] | None = None) -> None:
            body = b"" if content is None else json.dumps(content).encode()
            self.send_response(status)
            for key, value in {"Content-Type": "application/json", **(headers or {})}.items():
                self.send_header(key, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_GET = do_HEAD = do_POST = do_PUT = answer  # noqa: N815

    with run_server(http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)) as server:
        hub.url = f"http://127.0.0.1:{server.server_port}"
        yield hub
