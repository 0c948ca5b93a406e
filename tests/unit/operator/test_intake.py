"""Intake: what the watches don't tell is found by lists."""

import asyncio

from finetune_operator.intake import RELIST_SECONDS, Intake
from finetune_operator.kube.client import FINETUNEJOBS
from finetune_operator.kube.store import Store
from finetune_operator.queue import WorkQueue
from tests.support.in_memory_api import InMemoryApi
from tests.support.world import UID, build_finetunejob


async def test_what_went_before_a_watch_s_list_is_noticed_soon_after_it() -> None:
    queue, store = WorkQueue(), Store()
    store.put(FINETUNEJOBS, build_finetunejob())  # the API server has none any more
    intake = Intake(InMemoryApi(), store, queue, WorkQueue(), ())
    forever = asyncio.create_task(intake.resync_forever(3600))

    intake.note_list()
    async with asyncio.timeout(RELIST_SECONDS + 10):
        assert await queue.get() == UID

    assert store.finetunejob(UID) is None
    forever.cancel()
