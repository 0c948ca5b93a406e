"""The client's calls, against a server of our own."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import kopf
import pytest
import yaml
from aiohttp import web

from finetune_operator.kube import client as client_module
from finetune_operator.kube.client import JOBS, ApiError, KubeClient
from finetune_operator.kube.connection import NoClusterError, find_connection

Answer = Callable[[web.BaseRequest], web.Response]


@asynccontextmanager
async def _serve(answer: Answer, token: Callable[[], str] = lambda: "secret") -> AsyncIterator[KubeClient]:
    async def handle(request: web.BaseRequest) -> web.Response:
        await request.read()
        return answer(request)

    runner = web.ServerRunner(web.Server(handle, access_log=None))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    server = f"http://127.0.0.1:{runner.addresses[0][1]}"
    client = KubeClient(lambda: kopf.ConnectionInfo(server=server, token=token()))
    yield client
    await client.close()
    await runner.cleanup()


async def test_the_server_s_clock_is_that_of_its_answers() -> None:
    headers = {"Date": "Fri, 02 Jan 2026 03:04:05 GMT"}
    async with _serve(lambda _: web.json_response({}, headers=headers)) as client:
        assert client.server_time is None
        await client.get(JOBS, "team-a", "job")
        assert client.server_time == datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


async def test_a_refused_token_is_read_anew() -> None:
    tokens = iter(["at the start", "old", "new"])
    seen: list[str] = []

    def answer(request: web.BaseRequest) -> web.Response:
        seen.append(request.headers["Authorization"])
        return web.json_response({}, status=401 if seen == ["Bearer old"] else 200)

    async with _serve(answer, lambda: next(tokens)) as client:
        with pytest.raises(ApiError, match="401"):
            await client.get(JOBS, "team-a", "job")
        await client.get(JOBS, "team-a", "job")
        await client.get(JOBS, "team-a", "job")
    assert seen == ["Bearer old", "Bearer new", "Bearer new"]


async def test_a_token_is_read_anew_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "TOKEN_SECONDS", 0.0)
    tokens = iter("abc")
    seen: list[str] = []

    def answer(request: web.BaseRequest) -> web.Response:
        seen.append(request.headers["Authorization"])
        return web.json_response({})

    async with _serve(answer, lambda: next(tokens)) as client:
        await client.get(JOBS, "team-a", "job")
        await client.get(JOBS, "team-a", "job")
    assert seen == ["Bearer b", "Bearer c"]


async def test_a_selector_is_sent_as_it_was_meant() -> None:
    seen: list[str] = []

    def answer(request: web.BaseRequest) -> web.Response:
        seen.append(request.query["labelSelector"])
        return web.json_response({"metadata": {"resourceVersion": "1"}, "items": []})

    async with _serve(answer) as client:
        await client.list(JOBS, "team-a", labelSelector="app.kubernetes.io/managed-by=a+b, c")
    assert seen == ["app.kubernetes.io/managed-by=a+b, c"]


async def test_of_each_page_only_what_is_asked_for_is_kept() -> None:
    def answer(request: web.BaseRequest) -> web.Response:
        first = "continue" not in request.query
        metadata = {"resourceVersion": "7", **({"continue": "more"} if first else {})}
        return web.json_response({"metadata": metadata, "items": [{"name": "a" if first else "b", "ballast": "x"}]})

    async with _serve(answer) as client:
        listing = await client.list(JOBS, "team-a", keep=lambda body: {"name": body["name"]})
    assert (listing.items, listing.version) == ([{"name": "a"}, {"name": "b"}], 7)


@pytest.mark.parametrize("text", [None, "{}", "current-context: nowhere\n", ":\n- ["], ids=["absent", "empty", "dangling", "no YAML"])
def test_a_kubeconfig_that_cannot_be_used_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | None) -> None:
    path = tmp_path / "kubeconfig"
    if text is not None:
        path.write_text(text)
    monkeypatch.setenv("KUBECONFIG", str(path))
    with pytest.raises(NoClusterError, match="KUBECONFIG"):
        find_connection()


def test_the_current_context_of_the_kubeconfig_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = {
        "clusters": [{"name": name, "cluster": {"server": f"https://{name}"}} for name in ("one", "two")],
        "users": [{"name": "me", "user": {"token": "secret"}}],
        "contexts": [{"name": name, "context": {"cluster": name, "user": "me"}} for name in ("one", "two")],
        "current-context": "two",
    }
    (tmp_path / "kubeconfig").write_text(yaml.safe_dump(config))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    connection = find_connection()
    assert (connection.server, connection.token) == ("https://two", "secret")
