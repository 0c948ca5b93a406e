"""The one part of kubelet's HTTPS interface that people use: the logs of containers."""

import asyncio
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from aiohttp import web

_POLL = 0.2
_CHUNK = 1 << 16


class LogServer:
    """Serves `/containerLogs/NAMESPACE/POD/CONTAINER` to clients whose certificate is the API server's authority's."""

    def __init__(self, find_log: Callable[[str, str], tuple[Path, Callable[[], bool]] | None]) -> None:
        """Prepare a server.

        Args:
            find_log: returns a pod's log, by namespace and name, and a function that tells whether it still grows.
        """
        self._find_log = find_log
        app = web.Application()
        app.router.add_get("/containerLogs/{namespace}/{pod}/{container}", self._serve)
        self._runner = web.AppRunner(app, access_log=None)

    async def start(self, port: int, ca: Path, cert: Path, key: Path) -> None:
        """Listen on loopback."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(ca))
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_cert_chain(cert, key)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", port, ssl_context=context, shutdown_timeout=1).start()

    async def stop(self) -> None:
        """Stop listening."""
        await self._runner.cleanup()

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        found = self._find_log(request.match_info["namespace"], request.match_info["pod"])
        if found is None:
            raise web.HTTPNotFound(text=f"pod {request.match_info['pod']} does not run on this node\n")
        log, grows = found
        response = web.StreamResponse(headers={"Content-Type": "text/plain"})
        await response.prepare(request)
        follow = request.query.get("follow") == "true"
        stream = _open(log)
        while stream is None and follow and grows():
            await asyncio.sleep(_POLL)
            stream = _open(log)
        if stream is not None:
            # Held open to the end: the file's name goes with the pod, its last lines must not.
            with stream:
                stream.seek(_find_offset(stream, request.query.get("tailLines")))
                await _copy(stream, response)
                while follow and grows():
                    await asyncio.sleep(_POLL)
                    await _copy(stream, response)
                # What was written between the last read and the end.
                await _copy(stream, response)
        await response.write_eof()
        return response


def _open(log: Path) -> BinaryIO | None:
    try:
        return log.open("rb")
    except FileNotFoundError:
        return None


async def _copy(stream: BinaryIO, response: web.StreamResponse) -> None:
    while chunk := stream.read(_CHUNK):
        await response.write(chunk)


def _find_offset(stream: BinaryIO, tail_lines: str | None) -> int:
    if tail_lines is None or not tail_lines.isdigit():
        return 0
    content = stream.read()
    lines = content.splitlines(keepends=True)
    kept = lines[-int(tail_lines) :] if int(tail_lines) else []
    return len(content) - sum(len(line) for line in kept)
