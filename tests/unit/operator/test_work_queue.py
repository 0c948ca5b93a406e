"""The keyed work queue."""

import asyncio
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_operator.kube.client import ApiError
from finetune_operator.queue import BACKOFF_BASE, BACKOFF_CAP, OUTDATED_KEPT, URGENT_IN_A_ROW, WorkQueue
from finetune_operator.worker import work_forever


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


async def _get(queue: WorkQueue) -> str:
    return await asyncio.wait_for(queue.get(), 5)


async def _is_empty(queue: WorkQueue) -> bool:
    """Tell whether no key is to be had now."""
    task = asyncio.create_task(queue.get())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    idle = not task.done()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    return idle


async def test_keys_come_in_the_order_in_which_they_were_added() -> None:
    queue = WorkQueue()
    for key in "cab":
        queue.add(key)
    assert [await _get(queue) for _ in range(3)] == ["c", "a", "b"]


async def test_a_key_added_twice_comes_once() -> None:
    queue = WorkQueue()
    queue.add("a")
    queue.add("a")
    assert len(queue) == 1
    await _get(queue)
    assert await _is_empty(queue)


async def test_urgent_keys_go_first() -> None:
    queue = WorkQueue()
    queue.add("a")
    queue.add("b", urgent=True)
    queue.add("c", urgent=True)
    assert [await _get(queue) for _ in range(3)] == ["b", "c", "a"]


async def test_a_key_that_becomes_urgent_goes_first_and_comes_once() -> None:
    queue = WorkQueue()
    queue.add("a")
    queue.add("b")
    queue.add("b", urgent=True)
    queue.add("b")
    assert [await _get(queue) for _ in range(2)] == ["b", "a"]
    assert await _is_empty(queue)


async def test_urgent_keys_do_not_hold_up_the_others_for_ever() -> None:
    queue = WorkQueue()
    queue.add("patient")
    for number in range(3 * URGENT_IN_A_ROW):
        queue.add(str(number), urgent=True)
    assert "patient" in [await _get(queue) for _ in range(URGENT_IN_A_ROW + 1)]


async def test_what_a_cancelled_worker_was_woken_for_is_another_s() -> None:
    queue = WorkQueue()
    first, second = (asyncio.create_task(queue.get()) for _ in range(2))
    await asyncio.sleep(0)
    queue.add("a")
    first.cancel()
    assert await asyncio.wait_for(second, 5) == "a"


async def test_a_key_is_worked_on_by_one_worker_at_a_time() -> None:
    queue = WorkQueue()
    queue.add("a")
    await _get(queue)
    queue.add("a")
    assert await _is_empty(queue)
    queue.done("a")
    assert await _get(queue) == "a"


async def test_a_key_that_was_not_added_meanwhile_does_not_come_back() -> None:
    queue = WorkQueue()
    queue.add("a")
    queue.done(await _get(queue))
    assert await _is_empty(queue)
    assert queue.busy == 0


async def test_a_delayed_key_comes_when_it_is_due() -> None:
    clock = Clock()
    queue = WorkQueue(clock)
    queue.add_after("a", 10)
    clock.now = 9.9
    assert await _is_empty(queue)
    clock.now = 10.0
    assert await _get(queue) == "a"


async def test_of_two_delays_the_shorter_counts() -> None:
    clock = Clock()
    queue = WorkQueue(clock)
    for delay in (10, 5, 20):
        queue.add_after("a", delay)
    clock.now = 5.0
    assert await _get(queue) == "a"
    queue.done("a")
    clock.now = 100.0
    assert await _is_empty(queue), "the longer delays are void"


async def test_work_that_is_asked_for_now_voids_the_delay() -> None:
    clock = Clock()
    queue = WorkQueue(clock)
    queue.add_after("a", 10)
    queue.add("a")
    queue.done(await _get(queue))
    clock.now = 10.0
    assert await _is_empty(queue)


async def test_a_worker_that_waits_sees_a_key_that_is_due_earlier() -> None:
    queue = WorkQueue()
    queue.add_after("late", 60)
    waiting = asyncio.create_task(queue.get())
    await asyncio.sleep(0)
    queue.add_after("early", 0.01)
    assert await asyncio.wait_for(waiting, 5) == "early"


async def test_every_waiting_worker_gets_its_key() -> None:
    queue = WorkQueue()
    workers = [asyncio.create_task(queue.get()) for _ in range(3)]
    await asyncio.sleep(0)
    for key in "abc":
        queue.add(key)
    assert sorted(await asyncio.wait_for(asyncio.gather(*workers), 5)) == ["a", "b", "c"]


def test_failures_wait_longer_each_time_and_never_longer_than_the_cap() -> None:
    queue = WorkQueue(Clock())
    delays = [queue.retry("a") for _ in range(40)]
    for failures, delay in enumerate(delays):
        longest = min(BACKOFF_CAP, BACKOFF_BASE * 2**failures)
        assert longest / 2 <= delay <= longest
    queue.forget("a")
    assert queue.retry("a") <= BACKOFF_BASE


@given(st.lists(st.tuples(st.sampled_from(["add", "urgent", "after", "get", "done"]), st.sampled_from("abc")), max_size=40))
def test_no_key_is_lost_and_none_is_worked_on_twice_at_once(steps: list[tuple[str, str]]) -> None:
    async def replay() -> None:
        clock = Clock()
        queue = WorkQueue(clock)
        wanted: set[str] = set()
        working: set[str] = set()
        for step, key in steps:
            if step in ("add", "urgent"):
                queue.add(key, urgent=step == "urgent")
                wanted.add(key)
            elif step == "after":
                queue.add_after(key, 1)
                wanted.add(key)
            elif step == "done" and key in working:
                queue.done(key)
                working.discard(key)
            elif step == "get" and len(queue):
                got = await _get(queue)
                assert got not in working
                working.add(got)
                wanted.discard(got)
        for key in working:
            queue.done(key)
        clock.now = 2.0
        left: set[str] = set()
        while queue.busy or wanted - left:
            left.add(got := await _get(queue))
            queue.done(got)
        assert left >= wanted

    asyncio.run(replay())


@pytest.mark.parametrize(
    "failure", [ApiError(503, "", "busy", "GET /"), ApiError(409, "Conflict", "changed", "PATCH /"), RuntimeError("bug")], ids=str
)
async def test_no_failure_ends_a_worker_and_each_is_tried_again(failure: Exception) -> None:
    queue, seen = WorkQueue(), Counter[str]()
    done = asyncio.Event()

    async def reconcile(key: str) -> None:
        seen[key] += 1
        if seen["bad"] < 3 and key == "bad":
            raise failure
        if seen["bad"] >= 3 and seen["good"]:
            done.set()

    worker = asyncio.create_task(work_forever(queue, reconcile))
    queue.add("bad")
    queue.add("good")
    await asyncio.wait_for(done.wait(), 5)
    worker.cancel()
    assert seen == {"bad": 3, "good": 1}


async def test_a_key_comes_back_when_the_reconciler_asks_for_it() -> None:
    clock = Clock()
    queue = WorkQueue(clock)
    looked = asyncio.Event()

    async def reconcile(_: str) -> float:
        looked.set()
        return 30.0

    worker = asyncio.create_task(work_forever(queue, reconcile))
    queue.add("a")
    await asyncio.wait_for(looked.wait(), 5)
    await asyncio.sleep(0)
    worker.cancel()
    await asyncio.gather(worker, return_exceptions=True)
    clock.now = 29.0
    assert await _is_empty(queue)
    clock.now = 30.0
    assert await _get(queue) == "a"


async def test_delays_that_count_no_more_do_not_pile_up() -> None:
    clock = Clock()
    queue = WorkQueue(clock)
    for turn in range(3 * OUTDATED_KEPT):
        queue.add_after("a", 604_800 - turn)  # each is due earlier than the last, as of a run that is looked at again and again
    assert len(queue._delayed) <= OUTDATED_KEPT + 2
    clock.now = 604_800
    assert await _get(queue) == "a"
    assert await _is_empty(queue)
