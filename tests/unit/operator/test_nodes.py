"""Nodes are read seldom, only while a run waits, and what they say reaches the runs that it concerns."""

import asyncio

from finetune_operator.capacity import Request, Verdict
from finetune_operator.kube.client import NODES, ApiError
from finetune_operator.nodes import NodeBook
from tests.support.in_memory_api import Call, InMemoryApi
from tests.support.manifests import Manifest
from tests.support.world import build_spec

LARGE = Request(build_spec({"resources": {"minGpuMemory": "40Gi"}}).resources, {})
SMALL = Request(build_spec({"resources": {"minGpuMemory": "20Gi"}}).resources, {})


def _node(name: str, memory: str) -> Manifest:
    labels = {"nvidia.com/gpu.product": f"GPU-{memory}", "nvidia.com/gpu.memory": memory}
    status = {"allocatable": {"cpu": "8", "memory": "64Gi", "nvidia.com/gpu": "1"}, "images": [{"names": ["x"]}]}
    return {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "namespace": "", "labels": labels}, "status": status}


def _refuse(call: Call) -> None:
    raise ApiError(403, "Forbidden", "not yours", f"{call.method} nodes")


class World:
    """A cluster, the runs that wait in it, and a clock."""

    def __init__(self, *nodes: Manifest, enabled: bool = True) -> None:
        self.api = InMemoryApi()
        for node in nodes:
            self.api.seed(NODES, node)
        self.waiting = {"large", "small"}
        self.told: list[str] = []
        self.now = 0.0
        self.book = NodeBook(
            self.api, self.waiting.__contains__, self.told.append, enabled=enabled, every_seconds=30, clock=lambda: self.now
        )

    def reads(self) -> int:
        return len([call for call in self.api.calls if call.resource == NODES])


async def test_who_is_concerned_is_told_after_the_first_look_and_nobody_else() -> None:
    world = World(_node("a", "23034"))
    assert (world.book.judge("large", LARGE), world.book.judge("small", SMALL)) == (None, None)
    await world.book.look()
    assert world.told == ["large"]
    said = world.book.judge("large", LARGE)
    assert said is not None
    assert said.misfit is not None
    assert "GPU-23034" in said.misfit
    assert world.book.judge("small", SMALL) == Verdict()


async def test_a_run_that_is_known_to_need_more_than_there_is_is_told_of_the_largest() -> None:
    """It may go there all the same: an estimate places no pod."""
    world = World(_node("a", "23034"), _node("b", "15360"))
    knowing = Request(SMALL.resources, {}, needed_bytes=31 * 2**30)
    fitting = Request(SMALL.resources, {}, needed_bytes=20 * 2**30)
    assert (world.book.judge("large", knowing), world.book.judge("small", fitting)) == (None, None)
    await world.book.look()
    assert world.told == ["large"]
    said = world.book.judge("large", knowing)
    assert said is not None
    assert said.misfit is None
    assert said.too_small is not None
    assert (said.too_small.size_bytes, said.too_small.words) == (23034 * 2**20, "nvidia.com/gpu of the cluster (GPU-23034)")


async def test_words_of_an_older_look_are_taken_back_by_the_next() -> None:
    world = World(_node("a", "81559"))
    knowing = Request(SMALL.resources, {}, needed_bytes=31 * 2**30)
    assert world.book.judge("large", knowing, says_more=True) is None
    await world.book.look()
    assert world.told == ["large"]
    assert world.book.judge("large", knowing) == Verdict()


async def test_a_run_that_has_its_place_already_is_told_by_one_look_and_asks_for_no_other() -> None:
    world = World(_node("a", "23034"))
    world.waiting.clear()
    knowing = Request(SMALL.resources, {}, needed_bytes=31 * 2**30)
    assert world.book.judge("large", knowing, once=True) is None
    await world.book.look()
    assert world.told == ["large"]
    said = world.book.judge("large", knowing, once=True)
    assert said is not None
    assert said.too_small is not None
    await world.book.look()
    assert world.reads() == 1


async def test_a_node_that_is_added_takes_it_back() -> None:
    world = World(_node("a", "23034"))
    world.book.judge("large", LARGE)
    await world.book.look()
    world.book.judge("large", LARGE)
    world.api.seed(NODES, _node("b", "81559"))
    world.told.clear()
    await world.book.look()
    assert world.told == ["large"]
    assert world.book.judge("large", LARGE) == Verdict()


async def test_nothing_is_read_where_nobody_waits() -> None:
    world = World(_node("a", "23034"))
    await world.book.look()
    assert world.reads() == 0
    world.book.judge("large", LARGE)
    world.waiting.clear()
    await world.book.look()
    assert world.reads() == 0


async def test_a_view_that_is_old_denies_nobody_anything() -> None:
    world = World(_node("a", "23034"))
    world.book.judge("large", LARGE)
    await world.book.look()
    world.now = 61
    assert world.book.judge("large", LARGE) is None


async def test_a_refusal_ends_nothing_and_says_nothing_of_the_runs() -> None:
    world = World()
    world.api.before = _refuse
    following = asyncio.create_task(world.book.follow_forever())
    assert world.book.judge("large", LARGE) is None
    async with asyncio.timeout(10):
        while not world.reads():  # noqa: ASYNC110  # the other task's turn
            await asyncio.sleep(0)
    assert not following.done()
    following.cancel()
    assert world.told == []


async def test_switched_off_it_never_asks() -> None:
    world = World(_node("a", "23034"), enabled=False)
    assert world.book.judge("large", LARGE) is None
    await world.book.follow_forever()
    assert world.reads() == 0
