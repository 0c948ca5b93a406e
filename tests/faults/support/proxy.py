"""A proxy between the operator and the API server that does what its rules say.

Plain HTTP in front, on loopback; behind it the API server, with the credentials of a kubeconfig. Calls are numbered and kept,
so each of them can be a crash point. Watch streams are passed on line by line.
"""

import asyncio
import itertools
import json
import random
import ssl
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Self, cast

import aiohttp
from aiohttp import web

from tests.faults.support.calls import Call, parse_call
from tests.faults.support.direct import build_tls, read_server, read_token
from tests.faults.support.faults import (
    AT_ONCE,
    After,
    Answer,
    Before,
    Cut,
    Delay,
    DropEvent,
    DropReply,
    DropRequest,
    ErrorEvent,
    HoldBack,
    Rule,
    Snapshot,
    Stall,
    WatchFault,
)

_NOT_PASSED_ON: Final = frozenset(
    {"host", "connection", "transfer-encoding", "content-length", "content-encoding", "accept-encoding", "keep-alive"}
)


class FaultProxy:
    """One operator's way to the API server. Use as ``async with FaultProxy(kubeconfig, folder) as proxy``."""

    def __init__(self, kubeconfig: Path, folder: Path, *, seed: int = 0) -> None:
        self._server = read_server(kubeconfig)
        self._tls: ssl.SSLContext = build_tls(kubeconfig)
        token = read_token(kubeconfig)
        self._authorization = {"Authorization": f"Bearer {token}"} if token else {}
        self._random = random.Random(seed)  # noqa: S311  # chooses faults, guards nothing
        self._occurrences: Counter[tuple[str, str | None]] = Counter()
        self._events: Counter[tuple[str, str | None]] = Counter()
        self._watches: dict[int, tuple[Call, web.BaseRequest]] = {}
        self._silent: set[int] = set()
        self._numbers = itertools.count()
        self._gone = False
        self.calls: list[Call] = []
        """Every call, in order."""
        self.rules: list[Rule] = []
        self.kubeconfig = folder / "proxy.kubeconfig"
        """What the operator is given."""
        self.watch_events: list[tuple[str, str | None, str, str]] = []
        """What the watches were sent: signature, namespace, type of the event, name of the object."""

    async def __aenter__(self) -> Self:
        connector = aiohttp.TCPConnector(ssl=self._tls, limit=0)
        self._session = aiohttp.ClientSession(
            connector=connector, timeout=aiohttp.ClientTimeout(total=None, connect=10), auto_decompress=False
        )
        self._runner = web.ServerRunner(web.Server(self._handle, access_log=None), handle_signals=False, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.port: int = self._runner.addresses[0][1]
        self.kubeconfig.write_text(json.dumps(_build_kubeconfig(f"http://127.0.0.1:{self.port}")))
        return self

    async def __aexit__(self, *_: object) -> None:
        self.cut_watches()
        await self._runner.cleanup()
        await self._session.close()

    def add(self, rule: Rule) -> Rule:
        """Add a rule; earlier ones go first."""
        self.rules.append(rule)
        return rule

    def heal(self) -> None:
        """End every fault. Streams that were silenced stay so; new ones speak."""
        for rule in self.rules:
            rule.active = False
        self._gone = False

    def vanish(self) -> None:
        """Let the API server be gone: every connection ends, until :meth:`heal`."""
        self._gone = True
        self.cut_watches()

    def cut_watches(self, signature: str | None = None) -> None:
        """End the watch streams that are open now."""
        for call, request in list(self._watches.values()):
            if signature in (None, call.signature) and request.transport is not None:
                request.transport.abort()

    def silence_watches(self) -> int:
        """Let the streams that are open now say nothing more, and stay open; return how many there are."""
        self._silent.update(self._watches)
        return len(self._watches)

    async def take_snapshot(self, target: str) -> bytes:
        """Return what the API server answers to GET ``target`` now."""
        headers = {"Accept": "application/json", "Accept-Encoding": "identity", **self._authorization}
        async with self._session.get(self._server + target, headers=headers) as answer:
            assert answer.status == 200, (target, answer.status)
            return await answer.read()

    def forget(self) -> None:
        """Drop what was kept of calls and watch events: for tests that go on for hours."""
        self.calls.clear()
        self.watch_events.clear()

    def writes(self, namespace: str | None = None) -> list[Call]:
        """Return the writes so far, of one namespace or all."""
        return [call for call in self.calls if call.is_write and namespace in (None, call.namespace)]

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        call = parse_call(next(self._numbers), request.method, request.path_qs)
        key = (call.signature, call.namespace)
        call.occurrence = self._occurrences[key]
        self._occurrences[key] += 1
        self.calls.append(call)
        body = await request.read()
        if self._gone:
            call.outcome.append("gone")
            return _abort(request)
        drop_reply = False
        afterwards: After | None = None
        for rule in self.rules:
            if rule.is_of_watch or not rule.fits(call, self._random.random()):
                continue
            rule.count(call)
            call.outcome.append(type(rule.fault).__name__)
            match rule.fault:
                case DropRequest():
                    return _abort(request)
                case Before(action):
                    action()
                    return _abort(request)
                case Delay(least, most):
                    await asyncio.sleep(self._random.uniform(least, most if most is not None else least))
                case Answer() as answer:
                    call.outcome.append(str(answer.status))
                    retry = {"Retry-After": str(answer.retry_after)} if answer.retry_after is not None else {}
                    return web.Response(status=answer.status, body=answer.build_body(), content_type="application/json", headers=retry)
                case Snapshot(older):
                    return web.Response(body=older, content_type="application/json")
                case DropReply():
                    drop_reply = True
                case After() as afterwards:
                    drop_reply = True
        headers = {key: value for key, value in request.headers.items() if key.lower() not in _NOT_PASSED_ON}
        # Long lists would come compressed, and are passed on as they come.
        headers.update({"Accept-Encoding": "identity", **self._authorization})
        url = f"{self._server}{request.path_qs}"
        try:
            # The API server finishes what it was sent, even if the caller dies meanwhile.
            if call.verb == "watch":
                return await self._stream(request, call, url, headers, afterwards)
            status, content_type, content = await asyncio.shield(self._forward(request.method, url, headers, body))
        except (aiohttp.ClientError, OSError) as error:
            call.outcome.append(type(error).__name__)
            return _abort(request)
        call.outcome.append(str(status))
        if afterwards is not None:
            afterwards.action()
        if drop_reply:
            return _abort(request)
        return web.Response(status=status, body=content, content_type=content_type)

    async def _forward(self, method: str, url: str, headers: Mapping[str, str], body: bytes) -> tuple[int, str, bytes]:
        async with self._session.request(method, url, headers=headers, data=body or None) as answer:
            return answer.status, answer.content_type, await answer.read()

    async def _stream(
        self, request: web.BaseRequest, call: Call, url: str, headers: Mapping[str, str], afterwards: After | None
    ) -> web.StreamResponse:
        self._watches[call.number] = (call, request)
        try:
            async with self._session.get(url, headers=headers) as answer:
                call.outcome.append(str(answer.status))
                if answer.status != 200:
                    return web.Response(status=answer.status, body=await answer.read(), content_type=answer.content_type)
                if afterwards is not None:
                    afterwards.action()
                    return _abort(request)
                response = web.StreamResponse(headers={"Content-Type": "application/json"})
                response.enable_chunked_encoding()
                await response.prepare(request)
                if isinstance(error := self._rule_for(call, AT_ONCE), ErrorEvent):
                    await response.write(error.build_line())
                    return response
                with suppress(ConnectionError):
                    await self._pass_on(request, call, answer, response)
                return response
        finally:
            del self._watches[call.number]

    async def _pass_on(self, request: web.BaseRequest, call: Call, answer: aiohttp.ClientResponse, response: web.StreamResponse) -> None:
        """Pass lines on, each when it is due: a line that is held back holds up those behind it, as in a view that is behind."""
        due_lines: asyncio.Queue[tuple[float, bytes, bool]] = asyncio.Queue()
        writer = asyncio.create_task(self._write_due(request, response, due_lines))
        try:
            pending = b""
            async for chunk in answer.content.iter_any():
                pending += chunk
                *lines, pending = pending.split(b"\n")
                for line in lines:
                    if call.number in self._silent:
                        continue
                    now = asyncio.get_running_loop().time()
                    match self._fault_of(call, line):
                        case Stall():
                            self._silent.add(call.number)
                        case DropEvent():
                            pass
                        case Cut():
                            due_lines.put_nowait((now, line[: len(line) // 2], True))
                        case ErrorEvent() as error:
                            due_lines.put_nowait((now, error.build_line(), True))
                        case HoldBack(seconds):
                            due_lines.put_nowait((now + seconds, line + b"\n", False))
                        case _:
                            due_lines.put_nowait((now, line + b"\n", False))
                if writer.done():
                    return
            if call.number not in self._silent:
                due_lines.put_nowait((0.0, b"", True))
                await writer
        finally:
            writer.cancel()

    async def _write_due(
        self, request: web.BaseRequest, response: web.StreamResponse, due_lines: asyncio.Queue[tuple[float, bytes, bool]]
    ) -> None:
        with suppress(ConnectionError):
            while True:
                due, line, last = await due_lines.get()
                await asyncio.sleep(max(0.0, due - asyncio.get_running_loop().time()))
                if line:
                    await response.write(line)
                if last:
                    break
        _abort(request)

    def _fault_of(self, call: Call, line: bytes) -> WatchFault | None:
        event = json.loads(line)
        if event["type"] in ("BOOKMARK", "ERROR"):
            return None
        key = (call.signature, call.namespace)
        number = self._events[key]
        self._events[key] += 1
        self.watch_events.append((call.signature, call.namespace, event["type"], event["object"]["metadata"]["name"]))
        return self._rule_for(call, number)

    def _rule_for(self, call: Call, number: int) -> WatchFault | None:
        for rule in self.rules:
            wanted = (number,) if number == AT_ONCE else (None, number)
            if rule.is_of_watch and rule.event in wanted and rule.fits(call, self._random.random()):
                rule.count(call)
                call.outcome.append(f"{type(rule.fault).__name__} {number}")
                return cast("WatchFault", rule.fault)
        return None


def _abort(request: web.BaseRequest) -> web.StreamResponse:
    """End the connection without an answer."""
    if request.transport is not None:
        request.transport.abort()
    return web.Response(status=502)


def _build_kubeconfig(server: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "proxy", "cluster": {"server": server}}],
        "users": [{"name": "operator", "user": {}}],
        "contexts": [{"name": "proxy", "context": {"cluster": "proxy", "user": "operator"}}],
        "current-context": "proxy",
    }
