"""The process node's requests of the API server, as the user of its node."""

import json
import ssl
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, Self

import aiohttp

_TIMEOUT = aiohttp.ClientTimeout(total=15)
_WATCH_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=330)
_PATCHES = {"merge": "application/merge-patch+json", "strategic": "application/strategic-merge-patch+json"}


class RequestRefused(RuntimeError):
    """The API server answered with an error status."""

    def __init__(self, status: int, message: str) -> None:
        """Keep the HTTP status beside the message."""
        super().__init__(message)
        self.status = status


class NodeClient:
    """An asynchronous client of one API server, authenticated by a certificate."""

    def __init__(self, server: str, context: ssl.SSLContext) -> None:
        """Prepare a client; it opens no connection yet."""
        self._server = server
        # No proxy: the API server is on this machine, whatever the environment says.
        self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context), trust_env=False)

    @classmethod
    def open(cls, server: str, ca: Path, cert: Path, key: Path) -> Self:
        """Return a client from PEM files."""
        context = ssl.create_default_context(cafile=str(ca))
        context.load_cert_chain(cert, key)
        return cls(server, context)

    async def close(self) -> None:
        """Close all connections."""
        await self._session.close()

    async def get(self, path: str) -> dict[str, Any]:
        """Return one object or list."""
        return await self._call("GET", path)

    async def create(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Create an object, or ask for a token."""
        return await self._call("POST", path, body)

    async def patch(self, path: str, body: Mapping[str, Any], kind: str = "merge") -> dict[str, Any]:
        """Patch an object: `merge` or `strategic`."""
        return await self._call("PATCH", path, body, _PATCHES[kind])

    async def delete(self, path: str, body: Mapping[str, Any]) -> None:
        """Delete an object; `body` are the DeleteOptions. One that has gone already is no error."""
        try:
            await self._call("DELETE", path, body)
        except RequestRefused as error:
            if error.status not in (404, 409):
                raise

    async def watch(self, path: str, version: str) -> AsyncIterator[dict[str, Any]]:
        """Yield the events of a watch until the server ends it."""
        separator = "&" if "?" in path else "?"
        url = f"{self._server}{path}{separator}watch=true&resourceVersion={version}&timeoutSeconds=300"
        async with self._session.get(url, timeout=_WATCH_TIMEOUT) as response:
            await _check(response)
            buffer = b""
            async for chunk in response.content.iter_any():
                buffer += chunk
                *lines, buffer = buffer.split(b"\n")
                for line in lines:
                    yield json.loads(line)

    async def _call(self, method: str, path: str, body: Mapping[str, Any] | None = None, kind: str = "application/json") -> dict[str, Any]:
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": kind}
        async with self._session.request(method, self._server + path, data=data, headers=headers, timeout=_TIMEOUT) as response:
            await _check(response)
            answer: dict[str, Any] = await response.json()
            return answer


async def _check(response: aiohttp.ClientResponse) -> None:
    if response.status < 400:
        return
    text = await response.text()
    try:
        text = json.loads(text)["message"]
    except (ValueError, KeyError, TypeError):
        text = text[:1000]
    raise RequestRefused(response.status, text)
