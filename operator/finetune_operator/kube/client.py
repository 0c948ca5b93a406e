"""A client with short deadlines that passes plain dictionaries.

The generated models of the ``kubernetes`` package are slow, and kopf's own client retries for minutes; here a call either
answers within :data:`REQUEST_TIMEOUT` or raises, and the work queue decides when to try again.
"""

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Self
from urllib.parse import urlencode

import aiohttp
import orjson
from kubernetes.aio import client, config
from kubernetes.aio.client import rest

from finetune_api.names import GROUP, PLURAL, SWEEP_PLURAL, VERSION

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
EVENTS: Final = Resource("", "v1", "events")
SECRETS: Final = Resource("", "v1", "secrets")
TOKEN_REVIEWS: Final = Resource("authentication.k8s.io", "v1", "tokenreviews")


class KubeClient:
    """Calls the API server. Safe to share between tasks."""

    def __init__(self, configuration: client.Configuration, user_agent: str = "finetune-operator") -> None:
        self._user_agent = user_agent
        # The package's own session looks for a .netrc at each request and encodes by the standard library.
        tls = rest.RESTClientObject(configuration).ssl_context
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=tls, limit=CONNECTIONS), timeout=aiohttp.ClientTimeout(total=REQUEST_TIMEOUT)
        )
        self._configuration = configuration

    @classmethod
    async def connect(cls, user_agent: str = "finetune-operator", kubeconfig: str | None = None) -> Self:
        """Make a client from the pod's ServiceAccount, or from ``kubeconfig`` (by default the current one) outside a cluster.

        :raises ApiError: there is neither.
        """
        configuration = client.Configuration()
        try:
            config.load_incluster_config(client_configuration=configuration)
        except config.ConfigException:
            try:
                await config.load_kube_config(config_file=kubeconfig, client_configuration=configuration)
            except config.ConfigException as error:
                words = f"neither a ServiceAccount nor a usable kubeconfig (see KUBECONFIG): {error}"
                raise ApiError(0, "NoCluster", words, "connecting") from error
        return cls(configuration, user_agent)

    async def close(self) -> None:
        """Close the connections."""
        await self._session.close()

    async def get(self, resource: Resource, namespace: str | None, name: str, *, subresource: str | None = None) -> Manifest:
        """Return one object, as the API server has it now."""
        return await self._call("GET", resource.path(namespace, name, subresource))

    async def list(self, resource: Resource, namespace: str | None = None, **selectors: str) -> Listing:
        """Return every object of a kind, in pages, as of one moment.

        ``labelSelector`` and ``fieldSelector`` filter on the server.
        """
        items: list[Manifest] = []
        version, token = 0, ""
        while True:
            query = {**selectors, "limit": str(LIST_PAGE_SIZE), **({"continue": token} if token else {})}
            page = await self._call("GET", f"{resource.path(namespace)}?{urlencode(query)}")
            items.extend(page.get("items", []))
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
            headers = await self._build_headers()
            async with self._session.get(f"{self._configuration.host}{path}", headers=headers, timeout=timeout) as answer:
                if answer.status >= 300:
                    content = await answer.read()
                    raise ApiError(answer.status, "", content[:512].decode(errors="replace"), f"WATCH {path}")
                rest = b""
                async for chunk in answer.content.iter_any():
                    *lines, rest = (rest + chunk).split(b"\n")
                    for line in filter(None, lines):
                        event = orjson.loads(line)
                        yield event["type"], event["object"]
        except (TimeoutError, aiohttp.ClientError, OSError, ValueError) as error:
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

    async def delete(self, resource: Resource, namespace: str, name: str, *, uid: str) -> None:
        """Delete an object and, in the background, what it owns; nothing happens where it is gone or another object has its name."""
        options = {"propagationPolicy": "Background", "preconditions": {"uid": uid}}
        try:
            await self._call("DELETE", resource.path(namespace, name), options)
        except ApiError as error:
            if error.not_found or (error.conflict and not await self._exists(resource, namespace, name, uid)):
                return
            raise

    async def _exists(self, resource: Resource, namespace: str, name: str, uid: str) -> bool:
        try:
            body = await self.get(resource, namespace, name)
        except ApiError as error:
            if error.not_found:
                return False
            raise
        return bool(body["metadata"]["uid"] == uid)

    async def _call(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, *, content_type: str = "application/json"
    ) -> Manifest:
        headers = {**await self._build_headers(), "Content-Type": content_type}
        data = orjson.dumps(body) if body is not None else None
        try:
            async with self._session.request(method, f"{self._configuration.host}{path}", headers=headers, data=data) as answer:
                content = await answer.read()
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise ApiError(0, type(error).__name__, str(error), f"{method} {path}") from error
        try:
            parsed = orjson.loads(content) if content else {}
        except ValueError:
            parsed = {"message": content[:512].decode(errors="replace")}
        if answer.status >= 300:
            raise ApiError(answer.status, parsed.get("reason", ""), parsed.get("message", ""), f"{method} {path}")
        manifest: Manifest = parsed
        return manifest

    async def _build_headers(self) -> dict[str, str]:
        headers = {"Accept": "application/json", "User-Agent": self._user_agent}
        if token := await self._configuration.get_api_key_with_prefix("BearerToken", alias="authorization"):
            headers["Authorization"] = token
        return headers
