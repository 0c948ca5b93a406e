"""The HTTP session under kopf's watches: each goes on from where the operator's own list ended, and one that has lost its place is mended.

kopf lists, and watches from there. Its list is asked for none of the objects: the operator's own lists, page by page, have brought them
already, and kopf would hand them over once more, each by a task of its own. Nor is its list's place of use: what was deleted between the
operator's list and kopf's, nobody would ever tell. So the watch goes on from the operator's list, and leaves no gap.

An answer 410 (as opposed to an error 410 in the stream, which kopf knows) would end the process: the watch begins from what there is then.

What a watch brings is taken in before kopf reads it: see :mod:`finetune_operator.kube.tapped_stream`.
"""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Final, Protocol

import aiohttp
import kopf
from yarl import URL

from finetune_operator.kube.client import Resource
from finetune_operator.kube.tapped_stream import Take, TappedStream

_NO_OBJECT: Final = {"fieldSelector": "metadata.name=-"}
"""Selects nothing: no object can have this name."""


class Follower(Protocol):
    """Who is told what the watches bring. Kinds go by their plural, and a namespace is empty where it is all of them."""

    @property
    def take(self) -> Take:
        """Takes in each event; kopf sees its place, and nothing else."""

    @property
    def on_watch(self) -> Callable[[str, str], None]:
        """Is told of the kind and the namespace of each watch that was opened."""

    def take_place(self, plural: str, namespace: str) -> int | None:
        """Return, once, the resourceVersion as of which all of the kind is known."""

    def note_restart(self) -> None:
        """Take note that a watch begins anew, and leaves a gap."""


class Places:
    """From where watches go on, in the place of kopf's lists. One for all sessions: kopf takes another when credentials expire."""

    def __init__(self, follower: Follower) -> None:
        self.follower = follower
        self._instead: dict[tuple[str, str], tuple[str, str]] = {}

    async def note_list(self, answer: aiohttp.ClientResponse) -> None:
        """Take note of a list of kopf's: with its place, if all goes well, kopf begins to watch."""
        kind = answer.url.name, read_namespace(answer.url)
        self._instead.pop(kind, None)
        place = self.follower.take_place(*kind) if answer.status < 300 else None
        if place is None:
            self.follower.note_restart()
            return
        kopf_s = (await answer.json())["metadata"]["resourceVersion"]
        self._instead[kind] = kopf_s, str(place)

    def correct(self, url: URL) -> URL:
        """Return the URL of a watch with the place that it is to go on from."""
        kopf_s, place = self._instead.get((url.name, read_namespace(url)), ("", ""))
        return url.update_query(resourceVersion=place) if place and url.query.get("resourceVersion") == kopf_s else url


def open_watch_session(connection: kopf.ConnectionInfo, watched: Iterable[Resource], places: Places) -> kopf.AiohttpSession:
    """Return a session for kopf, which closes it."""
    collections = {resource.plural: resource for resource in watched}
    follower = places.follower

    async def follow(request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
        if request.url.name not in collections:
            return await handler(request)
        if not is_watch(request.url):
            request.url = request.url.update_query(_NO_OBJECT)
            answer = await handler(request)
            await places.note_list(answer)
            return answer
        request.url = places.correct(request.url)
        answer = await handler(request)
        if answer.status == 410 and "resourceVersion" in request.url.query:
            # The place in the history is gone: watch from what there is now, which the stream shows first.
            answer.release()
            follower.note_restart()
            request.url = request.url.without_query_params("resourceVersion", "resourceVersionMatch")
            answer = await handler(request)
        if answer.status < 300:
            follower.on_watch(request.url.name, read_namespace(request.url))
            answer.content = TappedStream(answer.content, partial(follower.take, collections[request.url.name]))  # type: ignore[assignment]
        return answer

    session = aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, ssl=connection.as_ssl_context()),
        headers=connection.as_http_headers(),
        proxy=connection.proxy_url,
        cookie_jar=aiohttp.DummyCookieJar(),
        middlewares=(follow,),
    )
    return kopf.AiohttpSession(
        server=connection.server, default_namespace=connection.default_namespace, priority=connection.priority, aiohttp_session=session
    )


def is_watch(url: URL) -> bool:
    """True of a watch, as opposed to a list."""
    return url.query.get("watch") == "true"


def read_namespace(url: URL) -> str:
    """Return the namespace of a collection; empty for all."""
    return url.parts[-2] if url.parts[-3] == "namespaces" else ""
