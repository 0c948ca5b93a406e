"""The session under kopf's watches, against a server that answers as the API server may."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import kopf
import pytest
from aiohttp import web

from finetune_operator.kube.client import JOBS, Resource
from finetune_operator.kube.watch_session import Places, open_watch_session
from finetune_operator.objects import Object

PATH = "/apis/batch/v1/namespaces/team-a/jobs"


class Told:
    """Who is told; ``place`` is what is known of all Jobs."""

    def __init__(self, place: int | None = None) -> None:
        self.place = place
        self.restarts = 0
        self.watches: list[tuple[str, str]] = []

    def take(self, resource: Resource, event_type: str | None, body: Object) -> None:
        """Take in nothing: no stream here tells of any object."""

    def on_watch(self, plural: str, namespace: str) -> None:
        self.watches.append((plural, namespace))

    def take_place(self, plural: str, namespace: str) -> int | None:
        assert (plural, namespace) == ("jobs", "team-a")
        place, self.place = self.place, None
        return place

    def note_restart(self) -> None:
        self.restarts += 1


@asynccontextmanager
async def _serve(*statuses: int, version: str = "7") -> AsyncIterator[tuple[str, list[str]]]:
    """Serve one answer after the other; yield the address, and the requests so far."""
    requests: list[str] = []
    answers = iter(statuses)

    async def answer(request: web.BaseRequest) -> web.Response:
        requests.append(request.path_qs)
        return web.json_response({"metadata": {"resourceVersion": version}}, status=next(answers))

    runner = web.ServerRunner(web.Server(answer, access_log=None))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}", requests
    await runner.cleanup()


async def _get(server: str, *paths: str, told: Told | None = None) -> tuple[int, int]:
    """Get paths through one session; return the last one's status, and how often a watch was said to begin anew, with a gap."""
    told = told or Told()
    status = 0
    async with open_watch_session(kopf.ConnectionInfo(server=server), [JOBS], Places(told)).aiohttp_session as session:
        for path in paths:
            async with session.get(server + path) as answer:
                status = answer.status
    return status, told.restarts


async def test_a_list_is_told_even_if_it_is_empty() -> None:
    async with _serve(200) as (server, _):
        assert await _get(server, f"{PATH}?limit=500") == (200, 1)


async def test_a_list_tells_from_where_to_watch_and_brings_no_objects() -> None:
    async with _serve(200) as (server, requests):
        await _get(server, f"{PATH}?limit=500&labelSelector=a%3Db&fieldSelector=reason%3DFailedCreate")
    assert requests == [f"{PATH}?limit=500&labelSelector=a%3Db&fieldSelector=metadata.name%3D-"]


LIST, WATCH = f"{PATH}?limit=500", f"{PATH}?watch=true&resourceVersion="


async def _watched_from(*paths: str, told: Told, statuses: tuple[int, ...] = (200,) * 9) -> list[str]:
    """Return the places from which the API server was asked to watch."""
    async with _serve(*statuses) as (server, requests):
        await _get(server, *paths, told=told)
    return [request.partition("resourceVersion=")[2] for request in requests if "watch=true" in request]


async def test_a_watch_goes_on_from_the_operator_s_own_list_and_leaves_no_gap() -> None:
    told = Told(place=5)
    assert await _watched_from(LIST, f"{WATCH}7", told=told) == ["5"]
    assert told.restarts == 0


async def test_a_watch_that_ends_before_it_has_told_anything_goes_on_from_there_too() -> None:
    assert await _watched_from(LIST, f"{WATCH}7", f"{WATCH}7", f"{WATCH}9", told=Told(place=5)) == ["5", "5", "9"]


async def test_where_the_operator_s_own_list_is_too_old_the_watch_begins_anew() -> None:
    told = Told(place=5)
    statuses = (200, 410, 200, 200, 200)
    assert await _watched_from(LIST, f"{WATCH}7", LIST, f"{WATCH}7", told=told, statuses=statuses) == ["5", "", "7"]
    assert told.restarts == 2


async def test_a_watch_whose_credentials_expired_goes_on_from_there_in_another_session() -> None:
    places = Places(Told(place=5))
    async with _serve(200, 401, 200) as (server, requests):
        for paths in ((LIST, f"{WATCH}7"), (f"{WATCH}7",)):
            async with open_watch_session(kopf.ConnectionInfo(server=server), [JOBS], places).aiohttp_session as session:
                for path in paths:
                    async with session.get(server + path):
                        pass
    assert [request.partition("resourceVersion=")[2] for request in requests] == ["", "5", "5"]


async def test_a_list_that_fails_costs_the_place_nothing() -> None:
    told = Told(place=5)
    assert await _watched_from(LIST, LIST, f"{WATCH}7", told=told, statuses=(500, 200, 200)) == ["5"]


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
    told = Told()
    async with _serve(200, 500) as (server, _):
        opened = open_watch_session(kopf.ConnectionInfo(server=server), [JOBS], Places(told))
        async with opened.aiohttp_session as session:
            for query in ("watch=true&resourceVersion=5", "watch=true&resourceVersion=6"):
                async with session.get(f"{server}{path}?{query}"):
                    pass
    assert told.watches == [("jobs", scope)]
