"""Watching Kueue's Workloads, from the moment that Kueue is there until it is not.

kopf watches what is there when it starts; Kueue comes and goes on its own. So this is a watch of its own: ask which versions are served,
list, follow, and begin anew whenever the stream ends. A list every few minutes also finds what a broken watch has missed.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from finetune_operator.kube.client import ApiError, KubeClient, Resource
from finetune_operator.kueue.workloads import GROUP, PLURAL, VERSIONS, WorkloadBook

ABSENT_SECONDS: Final = 10.0
"""How often is looked whether Kueue has been installed."""
RETRY_SECONDS: Final = 2.0
WATCH_SECONDS: Final = 270

log = logging.getLogger(__name__)


class WorkloadWatch:
    """Keeps the book of Workloads, and tells which Job is concerned by each change.

    :param on_change: is told the UID of the Job, and that of its FineTuneJob is looked up there.
    """

    def __init__(
        self,
        client: KubeClient,
        book: WorkloadBook,
        namespaces: tuple[str, ...],
        on_change: Callable[[str], None],
        absent_seconds: float = ABSENT_SECONDS,
    ) -> None:
        self._client = client
        self._book = book
        self._namespaces = namespaces
        self._on_change = on_change
        self._absent_seconds = absent_seconds
        self._said = ""

    async def look(self) -> None:
        """Find out whether Kueue is there, and take over its Workloads once.

        :raises ApiError: the API server gave no good answer.
        """
        resource = await self._discover()
        if resource != self._book.resource:
            log.info("Kueue is %s", f"there: {resource.version}" if resource is not None else "not installed")
        self._book.resource = resource
        if resource is None:
            for job in self._book.clear():
                self._on_change(job)
            return
        for namespace in self._namespaces or (None,):
            await self._list(resource, namespace)

    async def run_forever(self) -> None:
        """Watch until cancelled. No failure ends it."""
        while True:
            try:
                await self.look()
                self._said = ""
                await self._follow()
            except ApiError as error:
                self._complain(error)
                await asyncio.sleep(self._absent_seconds if error.status == 403 else RETRY_SECONDS)
            except Exception:
                log.exception("watching Workloads failed; it begins anew")
                await asyncio.sleep(RETRY_SECONDS)

    async def _follow(self) -> None:
        resource = self._book.resource
        if resource is None:
            await asyncio.sleep(self._absent_seconds)
            return
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._stream(resource, namespace)) for namespace in self._namespaces or (None,)]
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                task.cancel()

    async def _stream(self, resource: Resource, namespace: str | None) -> None:
        try:
            # Listed and followed in one place: what happens between the two is in the stream.
            version = await self._list(resource, namespace)
            async for kind, body in self._client.watch(resource, namespace, version=version, seconds=WATCH_SECONDS):
                if kind in ("ADDED", "MODIFIED"):
                    job = self._book.put(body)
                elif kind == "DELETED":
                    job = self._book.remove(body)
                else:  # a bookmark, or an error such as 410: a new list follows
                    if kind == "ERROR":
                        return
                    continue
                if job is not None:
                    self._on_change(job)
        except ApiError as error:
            self._complain(error)
            await asyncio.sleep(RETRY_SECONDS)

    async def _list(self, resource: Resource, namespace: str | None) -> int:
        listing = await self._client.list(resource, namespace)
        for job in self._book.replace(listing.items, listing.version, namespace):
            self._on_change(job)
        return listing.version

    async def _discover(self) -> Resource | None:
        """Return the Workload in the best version that is served, or None where there is none."""
        for version in VERSIONS:
            try:
                served = await self._client.resources(GROUP, version)
            except ApiError as error:
                if error.not_found:
                    continue
                raise
            if PLURAL in served:
                return Resource(GROUP, version, PLURAL)
        return None

    def _complain(self, error: ApiError) -> None:
        """Say once what is wrong, and not every two seconds."""
        words = f"{error.status} {error.reason}"
        log.log(logging.DEBUG if words == self._said else logging.WARNING, "Kueue's Workloads can't be watched: %s", error)
        self._said = words
