"""The session under kopf's watches, against a server that answers as the API server may."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import kopf
import pytest
from aiohttp import web

from finetune_operator.kube.client import JOBS
from finetune_operator.kube.watch_session import open_watch_session

PATH = "/apis/batch/v1/namespaces/team-a/jobs"


@asynccontextmanager
async def _serve(*statuses: int) -> AsyncIterator[tuple[str, list[str]]]:
    """Serve one answer after the other; yield the address, and the requests so far."""
    requests: list[str] = []
    answers = iter(statuses)

    async def answer(request: web.BaseRequest) -> web.Response:
        requests.append(request.path_qs)
        return web.Response(status=next(answers), text="{}")

    runner = web.ServerRunner(web.Server(answer, access_log=None))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}", requests
    await runner.cleanup()


async def _get(server: str, path: str) -> tuple[int, int]:
    """Get a path through the session; return the status and how often a watch was said to begin anew."""
    restarts: list[None] = []
    opened = open_watch_session(kopf.ConnectionInfo(server=server), [JOBS], lambda: restarts.append(None))
    async with opened.aiohttp_session as session, session.get(server + path) as answer:
        return answer.status, len(restarts)


async def test_a_list_is_told_even_if_it_is_empty() -> None:
    async with _serve(200) as (server, _):
        assert await _get(server, f"{PATH}?limit=500") == (200, 1)


async def test_a_list_tells_from_where_to_watch_and_brings_no_objects() -> None:
    async with _serve(200) as (server, requests):
        await _get(server, f"{PATH}?limit=500&labelSelector=a%3Db&fieldSelector=reason%3DFailedCreate")
    assert requests == [f"{PATH}?limit=500&labelSelector=a%3Db&fieldSelector=metadata.name%3D-"]


async def test_a_watch_that_goes_on_is_not_told() -> None:
    async with _serve(200) as (server, _):
        assert await _get(server, f"{PATH}?watch=true&resourceVersion=5") == (200, 0)


async def test_a_watch_whose_place_is_gone_begins_anew_from_what_there_is() -> None:
    async with _serve(410, 200) as (server, requests):
        assert await _get(server, f"{PATH}?watch=true&labelSelector=a%3Db&resourceVersion=5") == (200, 1)
    assert requests == [f"{PATH}?watch=true&labelSelector=a%3Db&resourceVersion=5", f"{PATH}?watch=true&labelSelector=a%3Db"]


async def test_a_server_that_answers_410_to_everything_is_asked_twice() -> None:
    async with _serve(410, 410) as (server, requests):
        assert await _get(server, f"{PATH}?watch=true&resourceVersion=5") == (410, 1)
    assert len(requests) == 2


@pytest.mark.parametrize("status", [403, 429, 500])
async def test_other_refusals_are_kopf_s(status: int) -> None:
    async with _serve(status) as (server, requests):
        assert await _get(server, f"{PATH}?watch=true&resourceVersion=5") == (status, 0)
    assert len(requests) == 1


async def test_what_is_no_collection_of_ours_is_left_alone() -> None:
    async with _serve(410) as (server, requests):
        assert await _get(server, "/apis/batch/v1?watch=true&resourceVersion=5") == (410, 0)
    assert len(requests) == 1


@pytest.mark.parametrize(("path", "scope"), [(PATH, "team-a"), ("/apis/batch/v1/jobs", "")])
async def test_a_watch_that_was_opened_is_told_with_its_namespace_and_one_that_was_not_is_not(path: str, scope: str) -> None:
    told: list[tuple[str, str]] = []
    async with _serve(200, 500, 200) as (server, _):
        opened = open_watch_session(
            kopf.ConnectionInfo(server=server), [JOBS], lambda: None, lambda kind, namespace: told.append((kind, namespace))
        )
        async with opened.aiohttp_session as session:
            for query in ("watch=true&resourceVersion=5", "watch=true&resourceVersion=6", "limit=500"):
                async with session.get(f"{server}{path}?{query}"):
                    pass
    assert told == [("jobs", scope)]
