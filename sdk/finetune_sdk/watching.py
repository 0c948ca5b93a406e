"""A watch that goes on: it lists, follows, and begins anew where it broke."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Mapping
from typing import Final
from urllib.parse import urlencode

from finetune_sdk.errors import ApiError, NoCluster, build_error
from finetune_sdk.transport import Object, Transport

WATCH_SECONDS: Final = 300
"""How long the server is asked to keep one watch open."""
PATIENCE: Final = 120.0
"""Seconds without an answer of the API server before a watch gives up."""
_PAUSES: Final = (0.2, 0.5, 1.0, 2.0, 5.0)


async def watch_objects(transport: Transport, path: str, query: Mapping[str, str], what: str) -> AsyncIterator[Object | None]:
    """Yield the one object that ``query`` selects, now and after each change; None, as the last, once it is deleted.

    :raises NoCluster: the API server has not answered for :data:`PATIENCE` seconds.
    :raises ApiError: it refuses for good.
    """
    seen: str | None = None
    uid: str | None = None
    failures, answered = 0, time.monotonic()
    while True:
        try:
            listing = await transport.request("GET", f"{path}?{urlencode(query)}", what=what)
            failures, answered = 0, time.monotonic()
            items = listing.get("items") or []
            if not items or (uid is not None and items[0]["metadata"]["uid"] != uid):
                yield None
                return
            body = {"apiVersion": listing.get("apiVersion"), "kind": str(listing.get("kind", "")).removesuffix("List")} | items[0]
            uid = body["metadata"]["uid"]
            if body["metadata"]["resourceVersion"] != seen:
                seen = body["metadata"]["resourceVersion"]
                yield body
            follow = {
                **query,
                "watch": "true",
                "resourceVersion": listing["metadata"]["resourceVersion"],
                "timeoutSeconds": str(WATCH_SECONDS),
            }
            async for line in transport.stream(f"{path}?{urlencode(follow)}", what=what):
                answered = time.monotonic()
                event = json.loads(line)
                if event["type"] == "ERROR":
                    status = event["object"]
                    if status.get("code") != 410:
                        raise build_error(int(status.get("code", 500)), status, what)
                    break  # too old: list anew
                if event["type"] == "DELETED":
                    yield None
                    return
                if event["type"] in ("ADDED", "MODIFIED") and event["object"]["metadata"]["resourceVersion"] != seen:
                    seen = event["object"]["metadata"]["resourceVersion"]
                    yield event["object"]
        except (NoCluster, ApiError, ValueError) as error:
            lasting = isinstance(error, ApiError) and error.status != 429 and error.status < 500
            if lasting or time.monotonic() - answered > PATIENCE:
                raise
        await asyncio.sleep(_PAUSES[min(failures, len(_PAUSES) - 1)])
        failures += 1
