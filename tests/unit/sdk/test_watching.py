"""A watch that goes on: what it does when the server says that it is too old, ends it, or shows another object of the name."""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from finetune_sdk import watching
from finetune_sdk.errors import NoCluster
from finetune_sdk.watching import watch_objects


def build_object(version: int, uid: str = "u") -> dict[str, Any]:
    return {"metadata": {"name": "a", "uid": uid, "resourceVersion": str(version)}}


class Server:
    """Answers lists and watches by a script."""

    def __init__(self, lists: list[list[dict[str, Any]] | Exception], streams: list[list[dict[str, Any]]]) -> None:
        self.lists, self.streams = lists, streams

    async def request(self, *_: object, **__: object) -> dict[str, Any]:
        answer = self.lists.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return {"items": answer, "metadata": {"resourceVersion": "1"}}

    async def stream(self, *_: object, **__: object) -> AsyncIterator[bytes]:
        for event in self.streams.pop(0):
            yield json.dumps(event).encode()


async def follow(server: Server) -> list[str | None]:
    versions = watch_objects(server, "/path", {}, "watching")  # type: ignore[arg-type]
    return [None if body is None else str(body["metadata"]["resourceVersion"]) async for body in versions]


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "_PAUSES", (0.0,))


async def test_a_watch_that_is_too_old_or_ends_begins_anew_and_tells_nothing_twice() -> None:
    too_old = {"type": "ERROR", "object": {"code": 410}}
    streams = [[{"type": "MODIFIED", "object": build_object(2)}, too_old], [], [{"type": "DELETED", "object": build_object(4)}]]
    server = Server([[build_object(1)], [build_object(2)], [build_object(3)]], streams)
    assert await follow(server) == ["1", "2", "3", None]


async def test_another_object_of_the_name_is_not_taken_for_the_one_watched() -> None:
    assert await follow(Server([[build_object(1)], [build_object(9, uid="other")]], [[]])) == ["1", None]


async def test_an_api_server_that_is_away_is_waited_for() -> None:
    away = NoCluster("away")
    assert await follow(Server([[build_object(1)], away, away, [build_object(5)], []], [[], []])) == ["1", "5", None]


async def test_patience_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "PATIENCE", -1.0)
    with pytest.raises(NoCluster):
        await follow(Server([[build_object(1)], NoCluster("away")], [[]]))
