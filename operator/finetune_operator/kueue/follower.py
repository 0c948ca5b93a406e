"""Following Kueue for the runs of this operator: Workloads by watch, places in the queue by asking."""

import asyncio
import logging
from collections.abc import Callable

from finetune_api.names import LABEL_JOB_UID
from finetune_operator.kube.client import ApiError, KubeClient
from finetune_operator.kube.store import Store
from finetune_operator.kueue.positions import QueuePositions
from finetune_operator.kueue.watch import WorkloadWatch
from finetune_operator.kueue.workloads import WorkloadBook
from finetune_operator.objects import label_of

log = logging.getLogger(__name__)


class KueueFollower:
    """Keeps the book of Workloads as long as it runs.

    :param enabled: where it is not, Kueue is taken to be there and nothing of it is read: the operator may not.
    :param on_change: is told the UID of the FineTuneJob whose Workload or place has changed.
    """

    def __init__(
        self, client: KubeClient, store: Store, namespaces: tuple[str, ...], on_change: Callable[[str], None], *, enabled: bool = True
    ) -> None:
        self._store = store
        self._on_change = on_change
        self._enabled = enabled
        self.book = WorkloadBook()
        self._watch = WorkloadWatch(client, self.book, namespaces, self._notice)
        self._positions = QueuePositions(client, self.book, lambda job: store.job(job) is not None, self._notice)

    async def begin(self) -> None:
        """Look once, so that what isn't known yet does not look as if it didn't exist."""
        if not self._enabled:
            return
        try:
            await self._watch.look()
        except ApiError as error:
            log.warning("Kueue was not looked for: %s", error)

    async def follow_forever(self) -> None:
        """Follow until cancelled."""
        if not self._enabled:
            return
        async with asyncio.TaskGroup() as group:
            group.create_task(self._watch.run_forever())
            group.create_task(self._positions.run_forever())

    def _notice(self, job_uid: str) -> None:
        job = self._store.job(job_uid)
        if job is not None and (owner := label_of(job, LABEL_JOB_UID)):
            self._on_change(owner)
