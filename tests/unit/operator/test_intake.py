"""Intake: what the watches don't tell is found by lists."""

import asyncio
from typing import Any

from finetune_operator.intake import RELIST_SECONDS, Intake
from finetune_operator.kube.client import FINETUNEJOBS, ApiError, Listing
from finetune_operator.kube.store import Store
from finetune_operator.queue import WorkQueue
from tests.support.in_memory_api import InMemoryApi
from tests.support.world import UID, build_finetunejob


async def test_what_went_in_a_watch_s_gap_is_noticed_soon_after_it() -> None:
    queue, store = WorkQueue(), Store()
    store.put(FINETUNEJOBS, build_finetunejob())  # the API server has none any more
    intake = Intake(InMemoryApi(), store, queue, WorkQueue(), ())
    forever = asyncio.create_task(intake.resync_forever(3600))

    intake.note_restart()
    async with asyncio.timeout(RELIST_SECONDS + 10):
        assert await queue.get() == UID

    assert store.finetunejob(UID) is None
    forever.cancel()


class BusyApi(InMemoryApi):
    """One that refuses the first lists."""

    refusals = 2

    async def list(self, *arguments: Any, **selectors: Any) -> Listing:
        """Refuse, or list."""
        if self.refusals:
            self.refusals -= 1
            raise ApiError(503, "ServiceUnavailable", "busy", "GET jobs")
        return await super().list(*arguments, **selectors)


async def test_a_comparison_that_a_watch_called_for_is_tried_until_it_succeeds() -> None:
    queue, store = WorkQueue(), Store()
    store.put(FINETUNEJOBS, build_finetunejob())
    intake = Intake(BusyApi(), store, queue, WorkQueue(), ())
    forever = asyncio.create_task(intake.resync_forever(3600))

    intake.note_restart()
    async with asyncio.timeout(8 * RELIST_SECONDS + 10):
        assert await queue.get() == UID
    forever.cancel()


async def test_a_watch_goes_on_from_a_comparison_once() -> None:
    api = InMemoryApi()
    api.seed(FINETUNEJOBS, build_finetunejob())
    intake = Intake(api, Store(), WorkQueue(), WorkQueue(), ("team-a", "team-b"))
    await intake.resync()
    places = [intake.take_place("finetunejobs", namespace) for namespace in ("team-a", "team-b", "team-a", "")]
    assert places == [api.version, api.version, None, None]
