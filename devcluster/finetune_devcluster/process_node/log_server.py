"""The one part of kubelet's HTTPS interface that people use: the logs of containers."""

import asyncio
import ssl
from collections.abc import Callable
from pathlib import Path

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
        offset = _find_offset(log, request.query.get("tailLines"))
        while True:
            # Asked before reading: what is written between the last read and the end would be lost otherwise.
            more = follow and grows()
            offset = await _copy(log, offset, response)
            if not more:
                break
            await asyncio.sleep(_POLL)
        await response.write_eof()
        return response


async def _copy(log: Path, offset: int, response: web.StreamResponse) -> int:
    try:
        with log.open("rb") as stream:
            stream.seek(offset)
            while chunk := stream.read(_CHUNK):
                await response.write(chunk)
                offset += len(chunk)
    except FileNotFoundError:
        pass
    return offset


def _find_offset(log: Path, tail_lines: str | None) -> int:
    if tail_lines is None or not tail_lines.isdigit():
        return 0
    try:
        content = log.read_bytes()
    except OSError:
        return 0
    lines = content.splitlines(keepends=True)
    kept = lines[-int(tail_lines) :] if int(tail_lines) else []
    return len(content) - sum(len(line) for line in kept)
