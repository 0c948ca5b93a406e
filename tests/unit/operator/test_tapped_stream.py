"""The tap before kopf: what a watch tells is taken in there, and of it kopf reads how far the watch has come."""

import asyncio
from itertools import pairwise
from typing import Any

import aiohttp
import orjson
import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from finetune_api.names import LABEL_JOB_UID
from finetune_operator.intake import FOLLOW_UP_SECONDS, Intake
from finetune_operator.kube.client import JOBS
from finetune_operator.kube.store import Store
from finetune_operator.kube.tapped_stream import TappedStream
from finetune_operator.objects import Object, version_of
from finetune_operator.queue import WorkQueue
from tests.support.in_memory_api import InMemoryApi

BOOKMARK = b'{"type":"BOOKMARK","object":{"kind":"Job","metadata":{"resourceVersion":"70"}}}\n'
GONE = b'{"type":"ERROR","object":{"kind":"Status","code":410}}\n'


LABELS = {LABEL_JOB_UID: "the-run"}


def _job(uid: str, version: int, **status: Any) -> dict[str, Any]:
    metadata = {"name": uid, "namespace": "team-a", "uid": uid, "resourceVersion": str(version), "labels": LABELS}
    metadata["managedFields"] = [{"manager": "x"}]
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": {"suspend": False}, "status": status}


def _line(kind: str, body: Object) -> bytes:
    return orjson.dumps({"type": kind, "object": body}) + b"\n"


def _build_intake() -> tuple[Intake, Store, WorkQueue]:
    store, queue = Store(), WorkQueue()
    return Intake(InMemoryApi(), store, queue, WorkQueue(), ()), store, queue


class Content:
    """A stream that comes in given pieces."""

    def __init__(self, *chunks: bytes) -> None:
        self.chunks = chunks

    async def iter_chunked(self, _size: int) -> Any:
        for chunk in self.chunks:
            yield chunk


async def _read(intake: Intake, *chunks: bytes) -> list[Any]:
    """Return the events that kopf reads."""
    stream = TappedStream(Content(*chunks), lambda kind, body: intake.take(JOBS, kind, body))  # type: ignore[arg-type]
    return [orjson.loads(line) async for piece in stream.iter_chunked(1 << 20) for line in piece.splitlines()]


def _place(version: int) -> dict[str, Any]:
    return {"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": str(version)}}}


async def test_what_a_watch_tells_is_taken_in_and_kopf_reads_the_place() -> None:
    intake, store, _ = _build_intake()
    assert await _read(intake, _line("ADDED", _job("a", 5))) == [_place(5)]
    assert (store.job("a") or {})["metadata"] == {"name": "a", "namespace": "team-a", "uid": "a", "resourceVersion": "5", "labels": LABELS}


async def test_the_run_that_it_is_about_is_looked_at() -> None:
    intake, _, queue = _build_intake()
    await _read(intake, _line("ADDED", _job("a", 5)))
    assert await asyncio.wait_for(queue.get(), 5) == "the-run"


@pytest.mark.parametrize("status", [{}, {"active": 1}], ids=["an answer has told it already", "no decision reads what changed"])
async def test_for_what_tells_nothing_new_nothing_is_looked_at(status: dict[str, Any]) -> None:
    intake, store, queue = _build_intake()
    store.put(JOBS, _job("a", 5))
    assert await _read(intake, _line("MODIFIED", _job("a", 5 + len(status), **status))) == [_place(5 + len(status))]
    assert version_of(store.job("a") or {}) == 5 + len(status)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(queue.get(), 3 * FOLLOW_UP_SECONDS)


async def test_what_is_deleted_is_gone() -> None:
    intake, store, _ = _build_intake()
    store.put(JOBS, _job("a", 5))
    assert await _read(intake, _line("DELETED", _job("a", 6))) == [_place(6)]
    assert store.job("a") is None


async def test_one_bookmark_stands_for_all_that_was_taken_in_a_row() -> None:
    intake, _, _ = _build_intake()
    lines = [_line("MODIFIED", _job("a", version)) for version in (7, 8, 9)]
    assert await _read(intake, b"".join(lines)) == [_place(9)]


async def test_the_place_comes_before_what_is_kopf_s_to_read() -> None:
    intake, _, _ = _build_intake()
    events = await _read(intake, _line("ADDED", _job("a", 5)) + GONE + _line("ADDED", _job("b", 6)))
    assert events == [_place(5), orjson.loads(GONE), _place(6)]


@pytest.mark.parametrize("fault", [ValueError, KeyError, RuntimeError, AssertionError])
async def test_what_can_t_be_taken_in_is_kopf_s_to_read(fault: type[Exception]) -> None:
    def refuse(_kind: str, _body: Object) -> None:
        raise fault("not this one")

    line = _line("ADDED", _job("a", 5))
    stream = TappedStream(Content(line), refuse)  # type: ignore[arg-type]
    assert [piece async for piece in stream.iter_chunked(1 << 20)] == [line]


@pytest.mark.parametrize("line", [BOOKMARK, GONE, b'{"type":"ADDED"}\n', b'{"type":"ADDED","object":{"metadata":{}}}\n', b"[]\n"])
async def test_what_is_not_about_an_object_is_kopf_s_to_read(line: bytes) -> None:
    intake, _, _ = _build_intake()
    stream = TappedStream(Content(line), lambda kind, body: intake.take(JOBS, kind, body))  # type: ignore[arg-type]
    assert [piece async for piece in stream.iter_chunked(1 << 20)] == [line]


async def test_half_a_line_at_the_end_of_a_stream_is_dropped() -> None:
    intake, _, _ = _build_intake()
    assert len(await _read(intake, _line("ADDED", _job("a", 5)) + _line("ADDED", _job("b", 6))[:-20])) == 1


@given(versions=st.lists(st.integers(1, 4), min_size=1, max_size=12), cuts=st.lists(st.integers(0, 4_000), max_size=6))
async def test_however_a_stream_is_cut_the_store_ends_with_the_newest_and_the_place_is_the_last_one_s(
    versions: list[int], cuts: list[int]
) -> None:
    """``versions`` are numbers of Jobs, each of whose turns is a change or none."""
    intake, store, _ = _build_intake()
    lines = [_line("MODIFIED", _job(f"job-{number}", at, succeeded=number if at % 3 else 0)) for at, number in enumerate(versions, 1)]
    text = b"".join(lines)
    edges = sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})
    events = await _read(intake, *(text[start:end] for start, end in pairwise(edges)))
    last = {number: at for at, number in enumerate(versions, 1)}
    assert {number: version_of(store.job(f"job-{number}") or {}) for number in last} == last
    assert events[-1]["object"]["metadata"]["resourceVersion"] == str(len(versions))


async def test_all_else_of_the_answer_is_as_it_was() -> None:
    async def answer(_: web.BaseRequest) -> web.Response:
        return web.Response(text="whole")

    runner = web.ServerRunner(web.Server(answer, access_log=None))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{runner.addresses[0][1]}") as response:
        response.content = TappedStream(response.content, lambda _kind, _body: None)  # type: ignore[assignment]
        assert await response.text() == "whole"
    await runner.cleanup()
