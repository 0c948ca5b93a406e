"""A watch's stream whose objects are taken in before kopf reads it.

kopf keeps the watch: it lists, holds its place in the history, and begins anew after a cut, a 410 or a wait. What the watch brings goes by
another way: kopf would read each line by the standard library's JSON, give each object a task of its own and work out what could be called,
0.3 ms of CPU an event, to hand over an object that is only stored. So what tells of an object is taken in here, and becomes a bookmark, as
the API server sends them itself: it moves on the place from which kopf watches, and does nothing else.

What is no such line, or can't be taken in, is kopf's to read and to judge.
"""

import logging
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

import aiohttp
import orjson

from finetune_operator.kube.client import Resource
from finetune_operator.objects import Object

Take = Callable[[Resource, str, Object], None]
"""Takes in the event of a watch: a kind, the type of the event, and its object."""

_OF_OBJECTS: Final = frozenset({"ADDED", "MODIFIED", "DELETED"})

log = logging.getLogger(__name__)


class TappedStream:
    """The content of a watch's answer, in the place of aiohttp's."""

    def __init__(self, content: aiohttp.StreamReader, take: Callable[[str, Object], None]) -> None:
        self._content = content
        self._take = take

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        """Be what it stands for in all else."""
        return getattr(self._content, name)

    async def iter_chunked(self, size: int) -> AsyncIterator[bytes]:
        """Yield whole lines. What the stream's end leaves of a line is dropped: whoever goes on watching is told it again."""
        rest = b""
        async for chunk in self._content.iter_chunked(size):
            *lines, rest = (rest + chunk).split(b"\n")
            if passed := self._pass(lines):
                yield passed

    def _pass(self, lines: list[bytes]) -> bytes:
        """Return what kopf is to read: one bookmark stands for all that was taken in a row."""
        passed: list[bytes] = []
        taken_to = ""
        for line in filter(None, lines):
            if place := self._take_in(line):
                taken_to = place
            else:
                passed += [*_bookmark(taken_to), line]
                taken_to = ""
        return b"".join(line + b"\n" for line in [*passed, *_bookmark(taken_to)])

    def _take_in(self, line: bytes) -> str:
        """Take in the object that ``line`` tells of; return its resourceVersion, or nothing where it tells of none."""
        try:
            event = orjson.loads(line)
            kind, body = event["type"], event["object"]
            if kind not in _OF_OBJECTS:
                return ""
            place: str = body["metadata"]["resourceVersion"]
            self._take(kind, body)
        except Exception:  # whatever it is, the watch goes on
            log.exception("an event of a watch can't be taken in")
            return ""
        return place


def _bookmark(place: str) -> list[bytes]:
    return [orjson.dumps({"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": place}}})] if place else []
