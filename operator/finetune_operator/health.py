"""Health, as the kubelet asks for it: alive while work goes on, ready once the store is filled."""

import time
from collections.abc import Callable

from aiohttp import web

STALE_AFTER = 3
"""Alive means that a resync succeeded within this many of its intervals."""


def build_health_app(last_resync: Callable[[], float], resync_seconds: float) -> web.Application:
    """Return ``/healthz`` (a resync succeeded not long ago) and ``/readyz`` (there was one)."""

    async def healthz(_: web.Request) -> web.Response:
        age = time.monotonic() - last_resync() if last_resync() else 0.0
        if age > STALE_AFTER * resync_seconds + 60:
            return web.Response(status=503, text=f"no complete look at the cluster for {age:.0f} s\n")
        return web.Response(text="ok\n")

    async def readyz(_: web.Request) -> web.Response:
        return web.Response(text="ok\n") if last_resync() else web.Response(status=503, text="starting\n")

    app = web.Application()
    app.router.add_get("/healthz", healthz)
    app.router.add_get("/readyz", readyz)
    return app
