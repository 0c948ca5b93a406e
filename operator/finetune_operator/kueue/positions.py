"""Places in the queue, asked of Kueue's visibility API now and then: no watch tells them."""

import asyncio
import logging
from collections import defaultdict
from collections.abc import Callable
from typing import Final

from finetune_operator.kube.client import ApiError, KubeClient, Resource
from finetune_operator.kueue.workloads import WorkloadBook
from finetune_operator.objects import controller_uid_of, holds, name_of, namespace_of

GROUP: Final = "visibility.kueue.x-k8s.io"
VERSIONS: Final = ("v1beta2", "v1beta1")
EVERY_SECONDS: Final = 30.0

log = logging.getLogger(__name__)


class QueuePositions:
    """Keeps the places of the runs that wait.

    :param is_ours: says of a Job's UID whether a FineTuneJob made it; the queues of other Jobs are not asked about.
    :param on_change: is told the UID of each Job whose place has changed.
    """

    def __init__(self, client: KubeClient, book: WorkloadBook, is_ours: Callable[[str], bool], on_change: Callable[[str], None]) -> None:
        self._client = client
        self._book = book
        self._is_ours = is_ours
        self._on_change = on_change

    async def run_forever(self) -> None:
        """Look at regular intervals until cancelled. A queue that can't be asked has no places, and runs wait on without."""
        while True:
            try:
                await self.look()
            except Exception:
                log.exception("places in the queues were not looked up")
            await asyncio.sleep(EVERY_SECONDS)

    async def look(self) -> None:
        """Look once: one call for each LocalQueue in which a run of ours waits."""
        waiting: defaultdict[tuple[str, str], dict[str, str]] = defaultdict(dict)
        for workload in self._book.all():
            job, queue = controller_uid_of(workload), workload["spec"].get("queueName")
            if (
                job is not None
                and queue
                and not holds(workload, "QuotaReserved")
                and not holds(workload, "Finished")
                and self._is_ours(job)
            ):
                waiting[namespace_of(workload), queue][name_of(workload)] = job
        positions: dict[str, int] = {}
        for (namespace, queue), jobs in waiting.items():
            for name, place in (await self._ask(namespace, queue)).items():
                if name in jobs:
                    positions[jobs[name]] = place
        for job in self._book.place(positions):
            self._on_change(job)

    async def _ask(self, namespace: str, queue: str) -> dict[str, int]:
        """Return the places, from 1, in a LocalQueue by the names of the Workloads."""
        for version in VERSIONS:
            try:
                answer = await self._client.get(Resource(GROUP, version, "localqueues"), namespace, queue, subresource="pendingworkloads")
            except ApiError as error:
                if error.not_found:
                    continue
                log.debug("queue %s/%s does not tell its order: %s", namespace, queue, error)
                return {}
            return {item["metadata"]["name"]: item["positionInLocalQueue"] + 1 for item in answer.get("items") or ()}
        return {}
