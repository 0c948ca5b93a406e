"""HTTPS to an API server, found and authenticated as kubectl does."""

import asyncio
import json
import os
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, Final, Self

import aiohttp
from kubernetes.aio import client, config
from kubernetes.aio.client import rest

from finetune_sdk.errors import NoCluster, build_error

Object = dict[str, Any]
REQUEST_TIMEOUT: Final = 30.0
"""Seconds that a call may take, but for streams."""
STREAM_SILENCE: Final = 330.0
"""Longest silence of a stream, in seconds: longer than the timeout that watches ask the server for."""
MERGE_PATCH: Final = "application/merge-patch+json"
_TICKS_TO_CLOSE: Final = 10
_NAMESPACE_FILE: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


class Transport:
    """One API server. Made by :meth:`connect`."""

    def __init__(self, configuration: client.Configuration, namespace: str, user_agent: str) -> None:
        self.namespace = namespace
        """Namespace of the context; `default` where it names none."""
        self._configuration = configuration
        self._user_agent = user_agent
        tls = rest.RESTClientObject(configuration).ssl_context
        self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=tls), trust_env=False)

    @classmethod
    async def connect(cls, kubeconfig: str | None, context: str | None, user_agent: str) -> Self:
        """Connect by ``kubeconfig`` (``KUBECONFIG``, then ``~/.kube/config``), or as a pod's ServiceAccount where there is none.

        :raises NoCluster: there is neither.
        """
        configuration = client.Configuration()
        looked_for = kubeconfig or os.environ.get("KUBECONFIG") or "~/.kube/config"
        try:
            if not any(_is_file(path) for path in looked_for.split(os.pathsep)):
                raise config.ConfigException(f"there is no kubeconfig {looked_for}")
            await config.load_kube_config(config_file=kubeconfig, context=context, client_configuration=configuration)
            contexts, active = config.list_kube_config_contexts(config_file=kubeconfig)
            chosen = next((each for each in contexts if each["name"] == context), active) if context else active
            namespace = str(chosen["context"].get("namespace") or "default")
        except (config.ConfigException, OSError) as error:
            if kubeconfig is not None or context is not None or not _NAMESPACE_FILE.exists():
                raise NoCluster(f"no usable kubeconfig (see KUBECONFIG, --kubeconfig and --context): {error}") from None
            config.load_incluster_config(client_configuration=configuration)
            namespace = _NAMESPACE_FILE.read_text().strip()
        return cls(configuration, namespace, user_agent)

    async def close(self) -> None:
        """Close the connections."""
        await self._session.close()
        for _ in range(_TICKS_TO_CLOSE):  # asyncio closes the sockets below in later turns of the loop, which may be its last
            await asyncio.sleep(0)

    async def request(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, *, what: str, content_type: str = "application/json"
    ) -> Object:
        """Send one request and return the answer.

        :param what: what is being done, for messages.
        :raises NoCluster: no answer.
        :raises ApiError: the server refused.
        """
        headers = await self._headers(content_type)
        data = None if body is None else json.dumps(body)
        timeout = aiohttp.ClientTimeout(total=REQUEST_TIMEOUT)
        try:
            async with self._session.request(
                method, self._url(path), headers=headers, data=data, timeout=timeout, proxy=self._configuration.proxy
            ) as answer:
                content = await answer.text()
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise self._unreachable(what, error) from error
        parsed = _parse(content)
        if answer.status >= 300:
            raise build_error(answer.status, parsed, what)
        return parsed

    async def stream(self, path: str, *, what: str) -> AsyncIterator[bytes]:
        """Yield the lines of an answer that may go on for long.

        :raises NoCluster: no answer, or the connection broke.
        :raises ApiError: the server refused.
        """
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=REQUEST_TIMEOUT, sock_read=STREAM_SILENCE)
        try:
            async with self._session.get(
                self._url(path), headers=await self._headers(), timeout=timeout, proxy=self._configuration.proxy, read_bufsize=2**20
            ) as answer:
                if answer.status >= 300:
                    raise build_error(answer.status, _parse(await answer.text()), what)
                try:
                    rest = b""
                    async for chunk in answer.content.iter_any():  # an object of a watch may be longer than any line that aiohttp splits
                        *lines, rest = (rest + chunk).split(b"\n")
                        for line in lines:
                            yield line
                    if rest:
                        yield rest
                finally:
                    # Left half-way, it would be closed politely, for up to 30 seconds in the background.
                    if answer.connection is not None and answer.connection.transport is not None:
                        answer.connection.transport.abort()
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise self._unreachable(what, error) from error

    def _url(self, path: str) -> str:
        return f"{self._configuration.host}{path}"

    async def _headers(self, content_type: str = "application/json") -> dict[str, str]:
        headers = {"Accept": "application/json", "Content-Type": content_type, "User-Agent": self._user_agent}
        try:
            token = await self._configuration.get_api_key_with_prefix("BearerToken", alias="authorization")
        except (config.ConfigException, OSError) as error:
            raise NoCluster(f"no token from the kubeconfig's plugin: {error}") from None
        return headers | ({"Authorization": token} if token else {})

    def _unreachable(self, what: str, error: BaseException) -> NoCluster:
        words = str(error) or ("no answer in time" if isinstance(error, TimeoutError) else type(error).__name__)
        return NoCluster(f"{what}: the API server at {self._configuration.host} can't be reached: {words}")


def _is_file(path: str) -> bool:
    return Path(path).expanduser().is_file()


def _parse(content: str) -> Object:
    try:
        parsed = json.loads(content) if content else {}
    except ValueError:
        return {"message": content[:512]}
    return parsed if isinstance(parsed, dict) else {"message": content[:512]}
