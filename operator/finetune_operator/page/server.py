"""The page's routes: who asks is found out first, and then what they may see is shown from the store."""

import hashlib
import logging
from collections.abc import Awaitable, Callable
from datetime import datetime
from importlib.resources import files
from typing import Final

from aiohttp import web

from finetune_api.drawing.style import STYLE
from finetune_operator.kube.client import ApiError
from finetune_operator.kube.store import Store
from finetune_operator.objects import Object, name_of, namespace_of
from finetune_operator.page.access import Gatekeeper, NotAllowed, Viewer
from finetune_operator.page.render import render_document, render_message, render_run, render_runs, render_sign_in

COOKIE: Final = "__Host-finetune"
"""Browsers take a cookie of such a name only over TLS, for this host alone."""
FORM_MAX_BYTES: Final = 16 * 1024
HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src data:; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
    "Cache-Control": "no-store",
}

log = logging.getLogger(__name__)
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Page:
    """Answers each replica's own requests, from its own store.

    :param describe_replica: says who answers, and whether it leads.
    """

    def __init__(self, gate: Gatekeeper, store: Store, clock: Callable[[], datetime], describe_replica: Callable[[], str]) -> None:
        self._gate = gate
        self._store = store
        self._clock = clock
        self._describe = describe_replica
        folder = files("finetune_operator.page") / "static"
        self._static = {
            "page.css": ("text/css", STYLE + (folder / "page.css").read_text()),
            "page.js": ("text/javascript", (folder / "page.js").read_text()),
        }

    def build_app(self) -> web.Application:
        """Return the web application."""
        app = web.Application(client_max_size=FORM_MAX_BYTES, middlewares=[self._guard])
        app.router.add_get("/", self._runs)
        app.router.add_get("/runs/{namespace}/{name}", self._run)
        app.router.add_get("/static/{name}", self._file)
        app.router.add_post("/sign-in", self._sign_in)
        app.router.add_post("/sign-out", self._sign_out)
        return app

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Turn refusals into pages, and put the same headers on every answer."""
        try:
            answer = await handler(request)
        except NotAllowed as refusal:
            form = render_sign_in(refusal.message if COOKIE in request.cookies or request.method == "POST" else "")
            content = form if refusal.status == 401 else render_message("Not now", refusal.message)
            answer = _page("Sign in", content, status=refusal.status)
        except ApiError as error:
            log.warning("page: a review got no answer: %s", error)
            answer = _page("Not now", render_message("Not now", "The cluster does not answer at the moment. Try again."), status=503)
        except web.HTTPException as error:
            answer = _page(error.reason, render_message(error.reason, "There is nothing here."), status=error.status)
        answer.headers.update(HEADERS)
        return answer

    async def _identify(self, request: web.Request) -> Viewer:
        header = request.headers.get("Authorization", "")
        token = header.removeprefix("Bearer ").strip() if header.startswith("Bearer ") else request.cookies.get(COOKIE, "")
        return await self._gate.identify(token)

    async def _runs(self, request: web.Request) -> web.StreamResponse:
        viewer = await self._identify(request)
        bodies = self._store.finetunejobs()
        wanted = request.query.get("namespace", "")
        present = {namespace_of(body) for body in bodies}
        asked = present & {wanted} if wanted else present
        allowed, unasked = await self._gate.filter_namespaces(viewer, asked)
        visible = [body for body in bodies if namespace_of(body) in allowed]
        choices = sorted({*allowed, *([wanted] if wanted else [])})
        content = render_runs(visible, choices, request.query, self._clock(), unasked=unasked, replica=self._describe())
        return _answer(request, "Runs", content, viewer)

    async def _run(self, request: web.Request) -> web.StreamResponse:
        viewer = await self._identify(request)
        namespace, name = request.match_info["namespace"], request.match_info["name"]
        body = self._find(namespace, name)
        # The right is asked for first whether it exists or not: the answer does not tell one from the other.
        if not await self._gate.may_get(viewer, namespace, name) or body is None:
            raise web.HTTPNotFound
        return _answer(request, name, render_run(body, self._describe()), viewer)

    def _find(self, namespace: str, name: str) -> Object | None:
        return next((body for body in self._store.finetunejobs() if name_of(body) == name and namespace_of(body) == namespace), None)

    async def _file(self, request: web.Request) -> web.StreamResponse:
        found = self._static.get(request.match_info["name"])
        if found is None:
            raise web.HTTPNotFound
        return web.Response(text=found[1], content_type=found[0])

    async def _sign_in(self, request: web.Request) -> web.StreamResponse:
        _refuse_other_sites(request)
        token = str((await request.post()).get("token", "")).strip()
        viewer = await self._gate.identify(token)
        log.info("page: signed in", extra={"user": viewer.name})
        answer = web.Response(status=303, headers={"Location": "/"})
        answer.set_cookie(COOKIE, token, httponly=True, secure=True, samesite="Strict", path="/")
        return answer

    async def _sign_out(self, request: web.Request) -> web.StreamResponse:
        _refuse_other_sites(request)
        answer = web.Response(status=303, headers={"Location": "/"})
        answer.del_cookie(COOKIE, path="/", secure=True, httponly=True, samesite="Strict")
        return answer


def _refuse_other_sites(request: web.Request) -> None:
    if request.headers.get("Sec-Fetch-Site", "same-origin") not in ("same-origin", "none"):
        raise NotAllowed(403, "The form was sent from another site.")


def _answer(request: web.Request, title: str, content: str, viewer: Viewer) -> web.Response:
    """Return the whole page, or its content alone to the page's own script; 304 where it has that already."""
    if request.headers.get("X-Fragment") != "1":
        return _page(title, content, viewer.name)
    tag = f'"{hashlib.sha256(content.encode()).hexdigest()[:32]}"'
    if request.headers.get("If-None-Match") == tag:
        return web.Response(status=304, headers={"ETag": tag})
    return web.Response(text=content, content_type="text/html", headers={"ETag": tag})


def _page(title: str, content: str, viewer: str = "", status: int = 200) -> web.Response:
    return web.Response(text=render_document(title, content, viewer), content_type="text/html", status=status)
