"""Who leads, and how long it may write: several replicas over one Lease, by a clock that the test sets."""

import asyncio
import copy
from typing import Any

import pytest

from finetune_operator.kube.client import LEASES, ApiError
from finetune_operator.leadership.lease import Leadership
from finetune_operator.settings import LeaseTimes
from tests.support.in_memory_api import Call, InMemoryApi

NAMESPACE, NAME = "finetune-system", "finetune-operator"
TIMES = LeaseTimes.of(10)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Replicas:
    """Replicas over one API server, and one clock."""

    def __init__(self) -> None:
        self.api, self.clock = InMemoryApi(), Clock()

    def add(self, name: str) -> Leadership:
        return Leadership(self.api, NAMESPACE, NAME, name, f"{name}:8443", TIMES, self.clock)

    @property
    def lease(self) -> dict[str, Any]:
        return self.api.objects[LEASES][NAMESPACE, NAME]


async def attempt(replica: Leadership) -> bool:
    """Let a replica try once."""
    return await replica._try()


async def test_the_first_leads_and_the_second_follows() -> None:
    replicas = Replicas()
    first, second = replicas.add("a"), replicas.add("b")
    assert await attempt(first)
    assert not await attempt(second)
    assert replicas.lease["spec"]["holderIdentity"] == "a"
    assert (first.leader_address, second.leader_address) == (None, "a:8443")


async def test_a_leader_stops_well_before_another_may_begin() -> None:
    replicas = Replicas()
    first, second = replicas.add("a"), replicas.add("b")
    await attempt(first)
    await attempt(second)
    replicas.clock.now += TIMES.validity
    assert first.seconds_left == 0
    replicas.clock.now = 1000 + TIMES.duration - 0.1
    assert not await attempt(second)
    replicas.clock.now = 1000 + TIMES.duration
    assert await attempt(second)
    assert replicas.lease["spec"]["leaseTransitions"] == 2


async def test_a_renewal_counts_from_before_it_was_sent() -> None:
    replicas = Replicas()
    first = replicas.add("a")

    def delay(call: Call) -> None:
        replicas.clock.now += 4 * call.writes

    replicas.api.after = delay
    await attempt(first)
    assert first.seconds_left == TIMES.validity - 4


async def test_each_renewal_puts_the_end_off_for_all() -> None:
    replicas = Replicas()
    first, second = replicas.add("a"), replicas.add("b")
    for _ in range(10):
        assert await attempt(first)
        assert not await attempt(second)
        replicas.clock.now += TIMES.renewal


async def test_one_that_was_stopped_for_a_minute_finds_the_lease_gone() -> None:
    replicas = Replicas()
    first, second = replicas.add("a"), replicas.add("b")
    await attempt(first)
    await attempt(second)
    replicas.clock.now += 60
    assert first.seconds_left == 0, "before it has asked anybody"
    assert await attempt(second)
    assert not await attempt(first)
    assert replicas.lease["spec"]["holderIdentity"] == "b"


async def test_what_is_given_up_is_taken_at_once() -> None:
    replicas = Replicas()
    first, second = replicas.add("a"), replicas.add("b")
    await attempt(first)
    await attempt(second)
    await first.release()
    assert first.seconds_left == 0
    assert await attempt(second)


async def test_a_lease_is_given_up_also_where_a_renewal_was_cut_off_once_it_had_taken_effect() -> None:
    replicas = Replicas()
    first, second = replicas.add("a"), replicas.add("b")
    await attempt(first)
    await attempt(second)

    def cut_off(call: Call) -> None:
        if call.writes:
            raise asyncio.CancelledError

    replicas.api.after = cut_off
    with pytest.raises(asyncio.CancelledError):
        await attempt(first)
    replicas.api.after = lambda _: None
    await first.release()
    assert await attempt(second)


async def test_a_lease_that_another_has_by_now_is_not_given_up() -> None:
    replicas = Replicas()
    first = replicas.add("a")
    await attempt(first)
    replicas.api.seed(LEASES, {**replicas.lease, "spec": {**replicas.lease["spec"], "holderIdentity": "b"}})
    await first.release()
    assert replicas.lease["spec"]["holderIdentity"] == "b"


async def test_of_two_that_take_it_at_the_same_moment_one_does() -> None:
    replicas = Replicas()
    first, second, third = replicas.add("a"), replicas.add("b"), replicas.add("c")
    await attempt(first)
    await attempt(second)
    await attempt(third)
    replicas.clock.now += TIMES.duration
    taken = False

    def meanwhile(call: Call) -> None:
        nonlocal taken
        if call.method == "PATCH" and not taken:
            taken = True
            replicas.api.seed(LEASES, {**replicas.lease, "spec": {**replicas.lease["spec"], "holderIdentity": "c"}})

    replicas.api.before = meanwhile
    assert not await attempt(second)
    assert second.seconds_left == 0


async def test_a_leader_whose_lease_was_taken_by_hand_stops_at_its_next_renewal() -> None:
    replicas = Replicas()
    first = replicas.add("a")
    await attempt(first)
    stolen = copy.deepcopy(replicas.lease)
    stolen["spec"]["holderIdentity"] = "somebody"
    replicas.api.seed(LEASES, stolen)
    assert not await attempt(first)
    assert first.seconds_left == 0


@pytest.mark.parametrize("status", [0, 429, 500])
async def test_a_renewal_that_fails_costs_nothing_until_the_time_is_over(status: int) -> None:
    replicas = Replicas()
    first = replicas.add("a")
    await attempt(first)

    def fail(_: Call) -> None:
        raise ApiError(status, "Trouble", "", "test")

    replicas.api.before = fail
    replicas.clock.now += TIMES.validity - 1
    assert await attempt(first)
    replicas.clock.now += 1
    assert not await attempt(first)


async def test_a_container_that_is_restarted_leads_again_at_once() -> None:
    replicas = Replicas()
    await attempt(replicas.add("pod-1"))
    assert await attempt(replicas.add("pod-1"))


async def test_a_lease_that_someone_deletes_is_made_again() -> None:
    replicas = Replicas()
    first = replicas.add("a")
    await attempt(first)
    del replicas.api.objects[LEASES][NAMESPACE, NAME]
    await attempt(first)
    replicas.clock.now += TIMES.duration
    assert await attempt(first)
    assert replicas.lease["spec"]["holderIdentity"] == "a"
