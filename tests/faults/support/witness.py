"""What really happened: every version of every FineTuneJob, Job and pod, by watches past the proxy."""

import asyncio
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Self

import aiohttp

from finetune_api.names import API_VERSION, LABEL_MANAGED_BY, MANAGED_BY, PLURAL
from tests.faults.support.direct import DirectApi, Object, Refused

FINETUNEJOBS: Final = f"/apis/{API_VERSION}/{PLURAL}"
JOBS: Final = "/apis/batch/v1/jobs"
PODS: Final = "/api/v1/pods"
OURS: Final = f"?labelSelector={LABEL_MANAGED_BY}%3D{MANAGED_BY}"


@dataclass(frozen=True, slots=True)
class Sighting:
    """One version of one object."""

    path: str
    """Of which collection."""
    type: str
    """ADDED, MODIFIED or DELETED."""
    body: Object

    @property
    def uid(self) -> str:
        """The object's UID."""
        return str(self.body["metadata"]["uid"])


class Witness:
    """Keeps the history of each namespace. Use as ``async with``."""

    def __init__(self, api: DirectApi) -> None:
        self._api = api
        self._changed = asyncio.Event()
        self.history: defaultdict[str, list[Sighting]] = defaultdict(list)
        """Versions by namespace, in the order of each collection's watch."""
        self.current: defaultdict[str, dict[str, Sighting]] = defaultdict(dict)
        """What exists now, by namespace and UID."""
        self.listeners: list[Callable[[Sighting], None]] = []

    async def __aenter__(self) -> Self:
        self._tasks = []
        for path, selector in ((FINETUNEJOBS, ""), (JOBS, OURS), (PODS, OURS)):
            listing = await self._list(path + selector)
            assert not listing["items"], f"the tests need a cluster without {path}"
            task = asyncio.create_task(self._watch(path, selector, listing["metadata"]["resourceVersion"]))
            self._tasks.append(task)
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _list(self, path: str) -> Object:
        async with asyncio.timeout(30):
            while True:
                try:
                    return await self._api.call("GET", path)
                except Refused as refusal:
                    if refusal.status != 429:  # a new kind's storage takes a moment
                        raise
                    await asyncio.sleep(0.2)

    def find(self, namespace: str, path: str) -> list[Object]:
        """Return the objects of a collection that exist in ``namespace``."""
        return [sighting.body for sighting in self.current[namespace].values() if sighting.path == path]

    async def until(self, condition: Callable[[], object], seconds: float, words: Callable[[], str]) -> None:
        """Wait until ``condition`` holds.

        :raises AssertionError: it did not within ``seconds``; ``words`` says what was there instead.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        while not condition():
            for task in self._tasks:
                if task.done():
                    task.result()
            left = deadline - loop.time()
            if left <= 0:
                raise AssertionError(f"not within {seconds:.0f} s: {words()}")
            self._changed.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(min(left, 0.5)):
                    await self._changed.wait()

    async def _watch(self, path: str, selector: str, version: str) -> None:
        joint = "&" if selector else "?"
        while True:
            try:
                async for event in self._api.watch(f"{path}{selector}{joint}timeoutSeconds=3600", version):
                    # No 410 may pass: a witness with a gap in its memory proves nothing.
                    assert event["type"] != "ERROR", event
                    version = event["object"]["metadata"]["resourceVersion"]
                    if event["type"] != "BOOKMARK":
                        self._note(Sighting(path, event["type"], event["object"]))
            except (aiohttp.ClientError, OSError):
                pass
            await asyncio.sleep(0.1)

    def _note(self, sighting: Sighting) -> None:
        namespace = sighting.body["metadata"]["namespace"]
        self.history[namespace].append(sighting)
        if sighting.type == "DELETED":
            self.current[namespace].pop(sighting.uid, None)
        else:
            self.current[namespace][sighting.uid] = sighting
        for listener in self.listeners:
            listener(sighting)
        self._changed.set()
