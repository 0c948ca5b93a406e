"""The tests' own way to the API server, past every fault."""

import base64
import json
import ssl
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Self

import aiohttp
import yaml

Object = dict[str, Any]

_CONTENT_TYPES = {"PATCH": "application/merge-patch+json"}


class Refused(Exception):
    """The API server answered with an error."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status}: {message}")
        self.status = status


def read_server(kubeconfig: Path) -> str:
    """Return the server's URL from a kubeconfig."""
    server: str = yaml.safe_load(kubeconfig.read_text())["clusters"][0]["cluster"]["server"]
    return server


def read_token(kubeconfig: Path) -> str | None:
    """Return the user's bearer token from a kubeconfig, if that is what it has."""
    token: str | None = yaml.safe_load(kubeconfig.read_text())["users"][0]["user"].get("token")
    return token


def build_tls(kubeconfig: Path) -> ssl.SSLContext:
    """Return a TLS context with the authority and (if there is one) the client certificate of a kubeconfig."""
    config = yaml.safe_load(kubeconfig.read_text())
    user = config["users"][0]["user"]
    authority = base64.b64decode(config["clusters"][0]["cluster"]["certificate-authority-data"]).decode()
    context = ssl.create_default_context(cadata=authority)
    if "client-certificate-data" not in user:
        return context
    with tempfile.TemporaryDirectory() as folder:
        certificate, key = Path(folder, "crt"), Path(folder, "key")
        certificate.write_bytes(base64.b64decode(user["client-certificate-data"]))
        key.write_bytes(base64.b64decode(user["client-key-data"]))
        context.load_cert_chain(certificate, key)
    return context


class DirectApi:
    """A small client with the administrator's rights. Use as ``async with``."""

    def __init__(self, kubeconfig: Path) -> None:
        self._server = read_server(kubeconfig)
        self._tls = build_tls(kubeconfig)

    async def __aenter__(self) -> Self:
        connector = aiohttp.TCPConnector(ssl=self._tls, limit=0)
        self._session = aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=None, connect=10))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def call(self, method: str, path: str, body: object = None, *, seconds: float = 120.0) -> Object:
        """Make one call and return the answer.

        :raises Refused: the answer is an error.
        """
        headers = {"Content-Type": _CONTENT_TYPES.get(method, "application/json"), "User-Agent": "fault-tests"}
        data = None if body is None else json.dumps(body)
        timeout = aiohttp.ClientTimeout(total=seconds)
        async with self._session.request(method, self._server + path, data=data, headers=headers, timeout=timeout) as answer:
            content: Object = await answer.json()
            if answer.status >= 300:
                raise Refused(answer.status, content.get("message", ""))
            return content

    async def watch(self, path: str, version: str) -> AsyncIterator[Object]:
        """Yield the events of a watch from ``version`` on, until the server ends it."""
        joint = "&" if "?" in path else "?"
        target = f"{self._server}{path}{joint}watch=true&allowWatchBookmarks=true&resourceVersion={version}"
        async with self._session.get(target, headers={"User-Agent": "fault-tests"}) as answer:
            pending = b""
            async for chunk in answer.content.iter_any():
                pending += chunk
                *lines, pending = pending.split(b"\n")
                for line in lines:
                    yield json.loads(line)
