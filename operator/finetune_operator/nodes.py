"""Reading Nodes: seldom, from the API server's cache, and only while a run waits for a place."""

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Final

from finetune_operator.capacity import NodeCapacity, Request, Verdict, compute_verdict, project_node
from finetune_operator.kube.client import NODES, ApiError, KubeClient

EVERY_SECONDS: Final = 30.0
"""Time between two looks while runs wait."""

_UNSURE: Final = Verdict(misfit="?")
"""Stands for words that still say what an older look has found: whatever the next look finds is news."""

log = logging.getLogger(__name__)


class NodeBook:
    """Knows what the cluster's nodes could take, and tells which runs are concerned when that changes.

    What it has seen counts for two looks' time: an older view might deny a run the node that was added since.

    :param waits: says of a FineTuneJob's UID whether it still waits for a place.
    :param on_change: is told the UID of each FineTuneJob about which something else is to be said now.
    """

    def __init__(
        self,
        client: KubeClient,
        waits: Callable[[str], bool],
        on_change: Callable[[str], None],
        *,
        enabled: bool = True,
        every_seconds: float = EVERY_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._waits = waits
        self._on_change = on_change
        self._enabled = enabled
        self._every_seconds = every_seconds
        self._clock = clock
        self._nodes: tuple[NodeCapacity, ...] = ()
        self._seen = -float("inf")
        self._asked: dict[str, tuple[str, Verdict, bool]] = {}
        """By run: the key of its request, what is being said of it, and whether one look is enough for it."""
        self._requests: dict[str, Request] = {}
        """By key. Thousands of runs ask for the same few things."""
        self._answers: dict[str, Verdict] = {}
        self._wanted = asyncio.Event()
        self._complained = ""

    def judge(self, uid: str, request: Request, *, says_more: bool = False, once: bool = False) -> Verdict | None:
        """Return what the nodes mean for the run, None where that is not known; a look follows where what is known is old.

        :param says_more: an older look's words about the run still stand.
        :param once: it has its place already; one look is enough.
        """
        if not self._enabled:
            return None
        key = f"{request.resources.model_dump_json()}{sorted(request.node_selector.items())}{request.needed_bytes}"
        self._requests[key] = request
        answer = None
        if self._clock() - self._seen <= 2 * self._every_seconds:
            if key not in self._answers:
                self._answers[key] = compute_verdict(request, self._nodes)
            answer = self._answers[key]
        if answer is None or not once:
            self._asked[uid] = (key, answer or (_UNSURE if says_more else Verdict()), once)
            self._wanted.set()
        return answer

    async def follow_forever(self) -> None:
        """Look whenever a run waits, until cancelled. No failure ends it."""
        while self._enabled:
            await self._wanted.wait()
            self._wanted.clear()
            try:
                await self.look()
            except ApiError as error:
                self._complain(error)
            except Exception:
                log.exception("nodes were not read")
            await asyncio.sleep(self._every_seconds)
            if self._asked:
                self._wanted.set()

    async def look(self) -> None:
        """Look once, and tell of each run that waits and is concerned.

        :raises ApiError: the API server gave no good answer.
        """
        self._asked = {uid: asked for uid, asked in self._asked.items() if asked[2] or self._waits(uid)}
        if not self._asked:
            return
        # Version 0: from the API server's own cache, without a read of etcd.
        listing = await self._client.list(NODES, keep=_keep, resourceVersion="0")
        self._nodes = tuple(project_node(node) for node in listing.items)
        self._seen = self._clock()
        self._complained = ""
        keys = {key for key, _, _ in self._asked.values()}
        self._requests = {key: self._requests[key] for key in keys}
        self._answers = {key: compute_verdict(request, self._nodes) for key, request in self._requests.items()}
        asked = self._asked
        self._asked = {uid: each for uid, each in asked.items() if not each[2]}
        for uid, (key, told, _) in asked.items():
            if self._answers[key] != told:
                self._on_change(uid)

    def _complain(self, error: ApiError) -> None:
        """Say once what is wrong, and not every half minute."""
        words = f"{error.status} {error.reason}"
        log.log(logging.DEBUG if words == self._complained else logging.WARNING, "nodes can't be read: %s", error)
        self._complained = words


def _keep(node: dict[str, object]) -> dict[str, object]:
    """Return the kept parts of a Node; its list of images alone is ten times as large."""
    metadata, status = node["metadata"], node.get("status", {})
    assert isinstance(metadata, dict)  # noqa: S101  # for the type checker
    assert isinstance(status, dict)  # noqa: S101  # likewise
    return {"metadata": {"labels": metadata.get("labels")}, "status": {"allocatable": status.get("allocatable")}}
