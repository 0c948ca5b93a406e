"""Taking in what the watches and lists show: into the store, and the key of the run concerned into the queue."""

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Final

from finetune_api.names import LABEL_MANAGED_BY, MANAGED_BY
from finetune_operator.kube.client import EVENTS, FINETUNEJOBS, FINETUNESWEEPS, JOBS, PODS, ApiError, KubeClient, Resource
from finetune_operator.kube.store import Store
from finetune_operator.objects import Object
from finetune_operator.queue import WorkQueue

SELECTORS: Final[dict[Resource, dict[str, str]]] = {
    FINETUNEJOBS: {},
    FINETUNESWEEPS: {},
    JOBS: {"labelSelector": f"{LABEL_MANAGED_BY}={MANAGED_BY}"},
    PODS: {"labelSelector": f"{LABEL_MANAGED_BY}={MANAGED_BY}"},
    EVENTS: {"fieldSelector": "involvedObject.kind=Job,reason=FailedCreate"},
}
"""What is watched, and what the server filters it by. The order matters: an Event is placed by its Job."""

OPTIONAL: Final = frozenset({FINETUNESWEEPS})
"""Kinds that a cluster may lack, since Helm leaves CRDs alone at an upgrade: runs go on without them."""

FOLLOW_UP_SECONDS: Final = 0.1
"""Changes of Jobs and pods come in clusters; they wait this long for each other, and what happens to FineTuneJobs goes before them."""

RELIST_SECONDS: Final = 0.5
"""A watch that begins anew, and not from where a comparison ended, tells nothing of what was there before; this long after it began, the
store is compared with lists. Watches begin anew together: one comparison is for all of them."""
RELIST_RETRY_SECONDS: Final = 15.0
"""The longest wait before such a comparison that failed is tried again."""
TAKE_OVER_RETRY_SECONDS: Final = 0.5

log = logging.getLogger(__name__)


class Intake:
    """The one way by which the outside world enters the store."""

    def __init__(self, client: KubeClient, store: Store, queue: WorkQueue, sweeps: WorkQueue, namespaces: tuple[str, ...]) -> None:
        self.on_event: Callable[[str], None] = lambda _: None
        """Is told of each event of a watch: the plural of its kind."""
        self.on_watch: Callable[[str, str], None] = lambda *_: None
        """Is told of each watch that was opened: the plural of its kind, and its namespace."""
        self._client = client
        self._store = store
        self._queue = queue
        self._sweeps = sweeps
        self._namespaces = namespaces
        self.last_resync = 0.0
        """When the last complete comparison ended, on the monotonic clock; 0 before the first."""
        self._relisted = asyncio.Event()
        self._places: dict[tuple[str, str], int] = {}
        """The version of the newest complete list, by plural and namespace (empty: all), unless a watch has gone on from it."""
        self._reigns = False
        """The FineTuneJobs were listed once since this operator began to work."""

    def take(self, resource: Resource, event_type: str | None, body: Object) -> None:
        """Take in one watch event; without a type, it is of a list with which a watch began.

        One that tells nothing new, since an answer to a write of ours has told it already or since no decision reads what changed, queues
        nothing.
        """
        self.on_event(resource.plural)
        change = self._store.remove if event_type == "DELETED" else self._store.put
        if owner := change(resource, body):
            self._notice(resource, owner, urgent=resource is FINETUNEJOBS)

    def _notice(self, resource: Resource, owner: str, *, urgent: bool = False) -> None:
        if resource is FINETUNESWEEPS:
            self._sweeps.add(owner)
        elif urgent:
            self._queue.add(owner, urgent=True)
        else:
            self._queue.add_after(owner, 0 if resource is FINETUNEJOBS else FOLLOW_UP_SECONDS)

    def note_restart(self) -> None:
        """Take note that a watch begins anew after a gap: what happened before, it never tells."""
        self._relisted.set()

    def take_place(self, plural: str, namespace: str) -> int | None:
        """Return, once, the version as of which the store was compared with a complete list: a watch from there leaves no gap."""
        return self._places.pop((plural, namespace), None)

    async def take_over(self) -> None:
        """Begin a reign: look at everything anew, and queue every run and sweep. What was done until now was another replica's."""
        while True:
            self._reigns = False
            try:
                await self.resync()
            except ApiError as error:
                log.warning("taking over: %s", error)
                await asyncio.sleep(TAKE_OVER_RETRY_SECONDS)
            else:
                break
        for resource in (FINETUNEJOBS, FINETUNESWEEPS):
            for uid in self._store.uids(resource):
                self._notice(resource, uid)

    async def resync(self) -> None:
        """Compare the store with complete lists, so that what a broken watch has missed (deletions above all) is noticed.

        :raises ApiError: a list failed; nothing is half taken over but whole kinds.
        """
        for resource, selectors in SELECTORS.items():
            for namespace in self._namespaces or (None,):
                try:
                    listing = await self._client.list(resource, namespace, keep=partial(self._store.keep, resource), **selectors)
                except ApiError as error:
                    if resource in OPTIONAL and error.not_found:
                        continue
                    raise
                for owner in self._store.replace(resource, listing.items, listing.version, namespace):
                    self._notice(resource, owner)
                self._places[resource.plural, namespace or ""] = listing.version
            if resource is FINETUNEJOBS and not self._reigns:
                self._store.begin(self._client.server_time)
                self._reigns = True
        self.last_resync = time.monotonic()

    async def resync_forever(self, every_seconds: float) -> None:
        """Resync at regular intervals, and after a watch has begun anew until it succeeds."""
        wait = RELIST_SECONDS
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(every_seconds):
                    await self._relisted.wait()
                    await asyncio.sleep(wait)
            called_for = self._relisted.is_set()
            self._relisted.clear()
            if await self._try_resync():
                wait = RELIST_SECONDS
            elif called_for:
                self._relisted.set()
                wait = min(2 * wait, RELIST_RETRY_SECONDS)

    async def _try_resync(self) -> bool:
        try:
            await self.resync()
        except ApiError as error:
            log.warning("resync failed: %s", error)
        except Exception:
            log.exception("resync failed")
        else:
            return True
        return False
