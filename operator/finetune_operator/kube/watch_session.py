"""The HTTP session under kopf's watches: it tells when a watch begins anew, and mends one that has lost its place.

Neither shows in kopf's events: a list without objects yields none, and an answer 410 (as opposed to an error 410 in the stream, which kopf
knows) would end the process.

A list of kopf's tells from where to watch, and nothing more: it is asked for none of the objects. The operator's own lists, page by page,
have brought them already, and kopf would hand them over once more, each by a task of its own.

What a watch brings is taken in before kopf reads it: see :mod:`finetune_operator.kube.tapped_stream`.
"""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Final

import aiohttp
import kopf
from yarl import URL

from finetune_operator.kube.client import Resource
from finetune_operator.kube.tapped_stream import Take, TappedStream

_NO_OBJECT: Final = {"fieldSelector": "metadata.name=-"}
"""Selects nothing: no object can have this name."""


def open_watch_session(
    connection: kopf.ConnectionInfo,
    watched: Iterable[Resource],
    on_restart: Callable[[], None],
    on_open: Callable[[str, str], None] = lambda *_: None,
    take: Take | None = None,
) -> kopf.AiohttpSession:
    """Return a session for kopf, which closes it.

    :param on_restart: is called whenever a watch begins from a list, or from nowhere.
    :param on_open: is called with the plural and the namespace (empty: all) whenever a watch was opened.
    :param take: takes in each event, of which kopf sees the place then; without it, kopf sees them all.
    """
    collections = {resource.plural: resource for resource in watched}

    async def follow(request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
        if request.url.name not in collections:
            return await handler(request)
        if not is_watch(request.url):
            request.url = request.url.update_query(_NO_OBJECT)
        answer = await handler(request)
        if not is_watch(request.url):
            on_restart()
        elif answer.status == 410 and "resourceVersion" in request.url.query:
            # The place in the history is gone: watch from what there is now, which the stream shows first.
            answer.release()
            on_restart()
            request.url = request.url.without_query_params("resourceVersion", "resourceVersionMatch")
            answer = await handler(request)
        if is_watch(request.url) and answer.status < 300:
            on_open(request.url.name, read_namespace(request.url))
            if take is not None:
                answer.content = TappedStream(answer.content, partial(take, collections[request.url.name]))  # type: ignore[assignment]
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
