"""A client with short deadlines that passes plain dictionaries.

kopf's own client retries for minutes; here a call either answers within :data:`REQUEST_TIMEOUT` or raises, and the work queue decides
when to try again.
"""

import copy
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final, Self
from urllib.parse import urlencode

import aiohttp
import kopf
import orjson
from yarl import URL

from finetune_api.names import GROUP, PLURAL, SWEEP_PLURAL, VERSION
from finetune_operator.kube.connection import NoClusterError, find_connection

Manifest = dict[str, Any]

REQUEST_TIMEOUT: Final = 15.0
"""Seconds that a single call may take."""
SILENCE_SECONDS: Final = 90.0
"""A watch in which nothing comes for so long, not even a bookmark, is dead."""
CONNECTIONS: Final = 64
"""Connections to the API server at the most."""
LIST_PAGE_SIZE: Final = 500
"""Objects in one page of a list: bounds the memory of a page, and what a 410 in between costs."""
MERGE_PATCH: Final = "application/merge-patch+json"
JSON_PATCH: Final = "application/json-patch+json"
TOKEN_SECONDS: Final = 60.0
"""The token is read anew this often; the kubelet renews it when a fifth of its life, of at least ten minutes, is left."""
FENCE_WORDS: Final = "does not hold the operator's Lease"
"""By these words the chart's admission policy refuses what a replica writes that does not lead."""


class ApiError(Exception):
    """The API server refused a call, or did not answer (status 0).

    ``transient`` says whether the same call can succeed later without anybody's help.
    """

    def __init__(self, status: int, reason: str, message: str, target: str) -> None:
        super().__init__(f"{target}: {status or 'no answer'} {reason}: {message}")
        self.status = status
        self.reason = reason
        self.message = message

    @property
    def transient(self) -> bool:
        """True of timeouts, lost connections, throttling and server errors."""
        return self.status in (0, 408, 429) or self.status >= 500

    @property
    def conflict(self) -> bool:
        """True where the object changed since it was read, or exists already."""
        return self.status == 409

    @property
    def not_found(self) -> bool:
        """True where the object (or its namespace) does not exist."""
        return self.status == 404


@dataclass(frozen=True, slots=True)
class Listing:
    """Objects, and the resourceVersion as of which they are all there are."""

    items: list[Manifest]
    version: int


@dataclass(frozen=True, slots=True)
class Resource:
    """A kind of object, as the API server's paths name it."""

    group: str
    version: str
    plural: str

    def path(self, namespace: str | None, name: str | None = None, subresource: str | None = None) -> str:
        """Return the path of a collection, an object or its subresource."""
        root = f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"
        parts = [root, *(("namespaces", namespace) if namespace else ()), self.plural, *filter(None, (name, subresource))]
        return "/".join(parts)


FINETUNEJOBS: Final = Resource(GROUP, VERSION, PLURAL)
FINETUNESWEEPS: Final = Resource(GROUP, VERSION, SWEEP_PLURAL)
JOBS: Final = Resource("batch", "v1", "jobs")
PODS: Final = Resource("", "v1", "pods")
SERVICES: Final = Resource("", "v1", "services")
POD_GROUPS: Final = Resource("scheduling.x-k8s.io", "v1alpha1", "podgroups")
EVENTS: Final = Resource("", "v1", "events")
NODES: Final = Resource("", "v1", "nodes")
SECRETS: Final = Resource("", "v1", "secrets")
LEASES: Final = Resource("coordination.k8s.io", "v1", "leases")
TOKEN_REVIEWS: Final = Resource("authentication.k8s.io", "v1", "tokenreviews")
SUBJECT_ACCESS_REVIEWS: Final = Resource("authorization.k8s.io", "v1", "subjectaccessreviews")


class KubeClient:
    """Calls the API server. Safe to share between tasks."""

    _date = ""

    def __init__(self, connect: Callable[[], kopf.ConnectionInfo], user_agent: str = "finetune-operator") -> None:
        connection = connect()
        self._connect = connect
        self._user_agent = user_agent
        self._server = connection.server.rstrip("/")
        self._headers: dict[str, str] = {}
        self._headers_until = 0.0
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=connection.as_ssl_context(), limit=CONNECTIONS),
            timeout=aiohttp.ClientTimeout(total=REQUEST_TIMEOUT),
            proxy=connection.proxy_url,
            cookie_jar=aiohttp.DummyCookieJar(),
            # Compression costs both sides more time than it saves on a cluster's own network.
            skip_auto_headers=("Accept-Encoding",),
        )
        self._seconds_left: Callable[[], float] | None = None
        self.on_call: Callable[[str, str, int, float], None] = lambda *_: None
        """Is told of each call but watches: its verb, its path, the status code (0: no answer) and the seconds that it took."""

    def fenced(self, seconds_left: Callable[[], float]) -> Self:
        """Return this client with a fence around its writes: they are sent, and waited for, only as long as ``seconds_left`` says.

        The question is asked when nothing more has to be waited for but the connection, and the same time bounds the whole call. So a
        process that was stopped in the middle and goes on later sends nothing that it hadn't sent before.
        """
        twin = copy.copy(self)
        twin._seconds_left = seconds_left
        return twin

    @classmethod
    async def connect(cls, user_agent: str = "finetune-operator") -> Self:
        """Make a client from the pod's ServiceAccount, or from the kubeconfig (``KUBECONFIG``) outside a cluster.

        :raises ApiError: there is neither.
        """
        try:
            return cls(find_connection, user_agent)
        except (NoClusterError, OSError, ValueError) as error:
            raise ApiError(0, "NoCluster", str(error), "connecting") from error

    @property
    def server_time(self) -> datetime | None:
        """The API server's clock as of its last answer, in whole seconds, rounded down; None before the first."""
        return parsedate_to_datetime(self._date) if self._date else None

    async def close(self) -> None:
        """Close the connections."""
        await self._session.close()

    async def get(self, resource: Resource, namespace: str | None, name: str, *, subresource: str | None = None) -> Manifest:
        """Return one object, as the API server has it now."""
        return await self._call("GET", resource.path(namespace, name, subresource))

    async def list(
        self, resource: Resource, namespace: str | None = None, *, keep: Callable[[Manifest], Manifest] | None = None, **selectors: str
    ) -> Listing:
        """Return every object of a kind, in pages, as of one moment.

        ``labelSelector`` and ``fieldSelector`` filter on the server; ``keep`` returns what to keep of each object of a page, before the
        next page comes: all of ten thousand whole Jobs are hundreds of megabytes.
        """
        items: list[Manifest] = []
        version, token = 0, ""
        while True:
            query = {**selectors, "limit": str(LIST_PAGE_SIZE)}
            if token:  # it stands for the version too
                query = {**query, "continue": token}
                query.pop("resourceVersion", None)
            page = await self._call("GET", f"{resource.path(namespace)}?{urlencode(query)}")
            found = page.pop("items", [])
            items.extend(found if keep is None else map(keep, found))
            del found
            version = version or int(page["metadata"]["resourceVersion"])
            token = page["metadata"].get("continue", "")
            if not token:
                return Listing(items, version)

    async def resources(self, group: str, version: str) -> frozenset[str]:
        """Return the plurals of what the API server serves in a version of a group.

        :raises ApiError: with status 404 where it serves none of it.
        """
        listing = await self._call("GET", f"/apis/{group}/{version}")
        return frozenset(resource["name"] for resource in listing.get("resources", ()))

    async def watch(self, resource: Resource, namespace: str | None, *, version: int, seconds: int) -> AsyncIterator[tuple[str, Manifest]]:
        """Yield what happens to a kind of object after ``version``: the type of each event, and the object.

        Ends after ``seconds``, or when the server says so. Bookmarks, which come about every minute, show that the stream is alive.

        :raises ApiError: the stream could not be opened, broke, or fell silent.
        """
        query = {"watch": "true", "resourceVersion": str(version), "allowWatchBookmarks": "true", "timeoutSeconds": str(seconds)}
        path = f"{resource.path(namespace)}?{urlencode(query)}"
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=REQUEST_TIMEOUT, sock_read=SILENCE_SECONDS)
        try:
            url = URL(f"{self._server}{path}", encoded=True)
            async with self._session.get(url, headers=self._build_headers(), timeout=timeout) as answer:
                if answer.status >= 300:
                    content = await answer.read()
                    raise ApiError(answer.status, "", content[:512].decode(errors="replace"), f"WATCH {path}")
                rest = b""
                async for chunk in answer.content.iter_any():
                    *lines, rest = (rest + chunk).split(b"\n")
                    for line in filter(None, lines):
                        event = orjson.loads(line)
                        yield event["type"], event["object"]
        except (TimeoutError, aiohttp.ClientError, OSError, ValueError, NoClusterError) as error:
            raise ApiError(0, type(error).__name__, str(error), f"WATCH {path}") from error

    async def create(self, resource: Resource, namespace: str | None, manifest: Mapping[str, Any]) -> Manifest:
        """Create an object and return it."""
        return await self._call("POST", resource.path(namespace), manifest)

    async def merge_patch(
        self, resource: Resource, namespace: str, name: str, patch: Mapping[str, Any], *, subresource: str | None = None
    ) -> Manifest:
        """Apply a JSON merge patch (RFC 7386) and return the object.

        With ``metadata.uid`` or ``metadata.resourceVersion`` in the patch, the API server answers 409 where they don't match.
        """
        return await self._call("PATCH", resource.path(namespace, name, subresource), patch, content_type=MERGE_PATCH)

    async def json_patch(
        self, resource: Resource, namespace: str, name: str, operations: Sequence[Mapping[str, Any]], *, subresource: str | None = None
    ) -> Manifest:
        """Apply a JSON patch (RFC 6902) and return the object. The API server answers 422 where a test in it fails."""
        return await self._call("PATCH", resource.path(namespace, name, subresource), operations, content_type=JSON_PATCH)

    async def delete(self, resource: Resource, namespace: str, name: str, *, uid: str) -> Manifest | None:
        """Delete an object and, in the background, what it owns; nothing happens where it is gone or another object has its name.

        Returns None once it is gone, or the object where it goes only when its finalizers have been taken away.
        """
        options = {"propagationPolicy": "Background", "preconditions": {"uid": uid}}
        try:
            answer = await self._call("DELETE", resource.path(namespace, name), options)
        except ApiError as error:
            if error.not_found or (error.conflict and not await self._exists(resource, namespace, name, uid)):
                return None
            raise
        return answer if answer.get("metadata", {}).get("finalizers") else None

    async def _exists(self, resource: Resource, namespace: str, name: str, uid: str) -> bool:
        try:
            body = await self.get(resource, namespace, name)
        except ApiError as error:
            if error.not_found:
                return False
            raise
        return bool(body["metadata"]["uid"] == uid)

    async def _call(
        self, method: str, path: str, body: Mapping[str, Any] | Sequence[Any] | None = None, *, content_type: str = "application/json"
    ) -> Manifest:
        data = orjson.dumps(body) if body is not None else None
        seconds = REQUEST_TIMEOUT
        if method != "GET" and self._seconds_left is not None:
            seconds = min(seconds, self._seconds_left())
            if seconds <= 0:
                raise ApiError(0, "NotLeading", "this replica does not lead any more", f"{method} {path}")
        timeout = aiohttp.ClientTimeout(total=seconds)
        url = URL(f"{self._server}{path}", encoded=True)
        began, status = time.perf_counter(), 0
        try:
            headers = {**self._build_headers(), "Content-Type": content_type}
            async with self._session.request(method, url, headers=headers, data=data, timeout=timeout) as answer:
                content = await answer.read()
                status = answer.status
        except (TimeoutError, aiohttp.ClientError, OSError, NoClusterError) as error:
            raise ApiError(0, type(error).__name__, str(error), f"{method} {path}") from error
        finally:
            self.on_call(method, path, status, time.perf_counter() - began)
        try:
            parsed = orjson.loads(content) if content else {}
        except ValueError:
            parsed = {"message": content[:512].decode(errors="replace")}
        self._date = answer.headers.get("Date", "")
        if answer.status == 401:
            self._headers_until = 0.0
        if answer.status >= 300:
            message = parsed.get("message", "")
            status = 0 if answer.status == 403 and FENCE_WORDS in message else answer.status  # it is not forbidden, it is another's turn
            raise ApiError(status, parsed.get("reason", ""), message, f"{method} {path}")
        manifest: Manifest = parsed
        return manifest

    def _build_headers(self) -> dict[str, str]:
        if time.monotonic() >= self._headers_until:
            credentials = self._connect().as_http_headers()
            self._headers = {"Accept": "application/json", "User-Agent": self._user_agent, **credentials}
            self._headers_until = time.monotonic() + TOKEN_SECONDS
        return self._headers
