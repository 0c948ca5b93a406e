"""The sieve before kopf: what tells nothing new moves the place of the watch on, and does nothing else."""

from itertools import pairwise
from typing import Any

import aiohttp
import orjson
import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from finetune_operator.intake import Intake
from finetune_operator.kube.client import JOBS
from finetune_operator.kube.sifted_stream import SiftedStream
from finetune_operator.kube.store import Store
from finetune_operator.objects import Object, version_of
from finetune_operator.queue import WorkQueue
from tests.support.in_memory_api import InMemoryApi

BOOKMARK = b'{"type":"BOOKMARK","object":{"kind":"Job","metadata":{"resourceVersion":"70"}}}\n'
GONE = b'{"type":"ERROR","object":{"kind":"Status","code":410}}\n'


def _job(uid: str, version: int, **status: Any) -> dict[str, Any]:
    metadata = {"name": uid, "namespace": "team-a", "uid": uid, "resourceVersion": str(version), "managedFields": [{"manager": "x"}]}
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": {"suspend": False}, "status": status}


def _line(kind: str, body: Object) -> bytes:
    return orjson.dumps({"type": kind, "object": body}) + b"\n"


def _build_intake() -> tuple[Intake, Store]:
    store = Store()
    return Intake(InMemoryApi(), store, WorkQueue(), WorkQueue(), ()), store


class Content:
    """A stream that comes in given pieces."""

    def __init__(self, *chunks: bytes) -> None:
        self.chunks = chunks

    async def iter_chunked(self, _size: int) -> Any:
        for chunk in self.chunks:
            yield chunk


async def _sift(intake: Intake, *chunks: bytes) -> list[Any]:
    """Return the events that kopf reads, as it hands them to the intake at once."""
    stream = SiftedStream(Content(*chunks), lambda kind, body: intake.sift(JOBS, kind, body))  # type: ignore[arg-type]
    events = []
    async for piece in stream.iter_chunked(1 << 20):
        for line in piece.splitlines():
            events.append(event := orjson.loads(line))
            if event["type"] in ("ADDED", "MODIFIED", "DELETED"):
                intake.take(JOBS, event["type"], event["object"])
    return events


def _place(version: int) -> dict[str, Any]:
    return {"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": str(version)}}}


async def test_what_an_answer_has_told_already_becomes_a_bookmark() -> None:
    intake, store = _build_intake()
    store.put(JOBS, _job("a", 5))
    assert await _sift(intake, _line("ADDED", _job("a", 5))) == [_place(5)]


async def test_what_no_decision_reads_becomes_a_bookmark_and_its_version_is_taken_down() -> None:
    intake, store = _build_intake()
    store.put(JOBS, _job("a", 5))
    assert await _sift(intake, _line("MODIFIED", _job("a", 6, active=1))) == [_place(6)]
    assert version_of(store.job("a") or {}) == 6


async def test_of_news_kopf_reads_what_is_kept() -> None:
    intake, _ = _build_intake()
    [event] = await _sift(intake, _line("ADDED", _job("a", 5, active=1)))
    assert event["type"] == "ADDED"
    assert event["object"]["metadata"] == {"name": "a", "namespace": "team-a", "uid": "a", "resourceVersion": "5"}
    assert event["object"]["status"] == {}


async def test_a_deletion_is_always_passed_on() -> None:
    intake, store = _build_intake()
    store.put(JOBS, _job("a", 5))
    assert [event["type"] for event in await _sift(intake, _line("DELETED", _job("a", 6)))] == ["DELETED"]
    assert store.job("a") is None


async def test_one_bookmark_stands_for_all_that_was_left_out_in_a_row() -> None:
    intake, store = _build_intake()
    store.put(JOBS, _job("a", 9))
    lines = [_line("MODIFIED", _job("a", version)) for version in (7, 8, 9)]
    assert await _sift(intake, b"".join(lines)) == [_place(9)]


async def test_what_is_passed_on_after_something_left_out_is_its_own_bookmark() -> None:
    intake, store = _build_intake()
    store.put(JOBS, _job("a", 5))
    events = await _sift(intake, _line("ADDED", _job("a", 5)) + _line("ADDED", _job("b", 6)))
    assert [event["object"]["metadata"]["resourceVersion"] for event in events] == ["6"]


@pytest.mark.parametrize("line", [BOOKMARK, GONE, b'{"type":"ADDED"}\n', b'{"type":"ADDED","object":{"metadata":{}}}\n', b"[]\n"])
async def test_what_is_not_about_an_object_is_kopf_s_to_read(line: bytes) -> None:
    intake, _ = _build_intake()
    stream = SiftedStream(Content(line), lambda kind, body: intake.sift(JOBS, kind, body))  # type: ignore[arg-type]
    assert [piece async for piece in stream.iter_chunked(1 << 20)] == [line]


async def test_half_a_line_at_the_end_of_a_stream_is_dropped() -> None:
    intake, _ = _build_intake()
    assert len(await _sift(intake, _line("ADDED", _job("a", 5)) + _line("ADDED", _job("b", 6))[:-20])) == 1


@given(versions=st.lists(st.integers(1, 4), min_size=1, max_size=12), cuts=st.lists(st.integers(0, 4_000), max_size=6))
async def test_however_a_stream_is_cut_the_store_ends_with_the_newest_and_the_place_is_the_last_one_s(
    versions: list[int], cuts: list[int]
) -> None:
    """``versions`` are numbers of Jobs, each of whose turns is a change or none."""
    intake, store = _build_intake()
    lines = [_line("MODIFIED", _job(f"job-{number}", at, succeeded=number if at % 3 else 0)) for at, number in enumerate(versions, 1)]
    text = b"".join(lines)
    edges = sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})
    events = await _sift(intake, *(text[start:end] for start, end in pairwise(edges)))
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
        response.content = SiftedStream(response.content, lambda _kind, body: body)  # type: ignore[assignment]
        assert await response.text() == "whole"
    await runner.cleanup()
