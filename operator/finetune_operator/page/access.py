"""Who looks, and what they may see: TokenReview and SubjectAccessReview, each remembered for some seconds and for one token alone."""

import asyncio
import hashlib
import time
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Generic, TypeVar

from finetune_api.names import GROUP, PLURAL
from finetune_operator.kube.client import SUBJECT_ACCESS_REVIEWS, TOKEN_REVIEWS, KubeClient
from finetune_operator.reports.limits import RateLimit

AUDIENCE: Final = f"{GROUP}/page"
"""Tokens made for this audience open the page, and nothing else: the API server itself refuses them."""
TOKEN_MAX_CHARACTERS: Final = 3800
"""A browser keeps at most 4,096 bytes of a cookie."""
REMEMBER_SECONDS: Final = 15.0
"""So long can a right or a token that was withdrawn still show the page."""
KEPT: Final = 20_000
TOKENS_PER_SECOND: Final = 20.0
TOKENS_AT_ONCE: Final = 40.0
VIEWS_PER_SECOND: Final = 5.0
VIEWS_AT_ONCE: Final = 30.0
NAMESPACES_REVIEWED: Final = 200
"""Namespaces that one view asks about at the most."""
REVIEWS_AT_ONCE: Final = 8


class NotAllowed(Exception):
    """A request that is turned away; ``status`` is the HTTP status that says so."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


@dataclass(frozen=True, slots=True)
class Viewer:
    """Whoever a token belongs to."""

    name: str
    """The user's name, as the cluster knows it."""
    key: str = field(repr=False)
    """Digest of the token: what is remembered is remembered under it."""
    identity: Mapping[str, Any] = field(repr=False)
    """User, UID, groups and extra, as a SubjectAccessReview takes them."""


T = TypeVar("T")


class _Memory(Generic[T]):
    """Answers by key, each for :data:`REMEMBER_SECONDS`; the oldest go first."""

    def __init__(self) -> None:
        self._known: OrderedDict[str, tuple[float, T]] = OrderedDict()

    def get(self, key: str) -> tuple[T] | None:
        known = self._known.get(key)
        return (known[1],) if known is not None and known[0] > time.monotonic() else None

    def keep(self, key: str, value: T) -> T:
        self._known[key] = (time.monotonic() + REMEMBER_SECONDS, value)
        self._known.move_to_end(key)
        while len(self._known) > KEPT:
            self._known.popitem(last=False)
        return value


class Gatekeeper:
    """Asks the API server who somebody is and what they may read.

    :param api_tokens: take tokens of the API server's own audience too (those of an identity provider, above all).
    """

    def __init__(self, client: KubeClient, *, api_tokens: bool) -> None:
        self._client = client
        self._api_tokens = api_tokens
        self._viewers: _Memory[Viewer | None] = _Memory()
        self._rights: _Memory[bool] = _Memory()
        self._unknown = RateLimit(TOKENS_PER_SECOND, TOKENS_AT_ONCE)
        self._views = RateLimit(VIEWS_PER_SECOND, VIEWS_AT_ONCE)
        self._gate = asyncio.Semaphore(REVIEWS_AT_ONCE)

    async def identify(self, token: str) -> Viewer:
        """Return whose ``token`` it is.

        :raises NotAllowed: 401 for one that the cluster does not take for this page; 429 where too many requests come.
        :raises ApiError: the API server did not answer.
        """
        if not token or len(token) > TOKEN_MAX_CHARACTERS or not token.isascii() or not token.isprintable():
            raise NotAllowed(401, f"A token is needed, of at most {TOKEN_MAX_CHARACTERS} characters.")
        key = hashlib.sha256(token.encode()).hexdigest()
        known = self._viewers.get(key)
        if known is None:
            if not self._unknown.allows():
                raise NotAllowed(429, "Too many unknown tokens at the moment. Try again in some seconds.")
            known = (self._viewers.keep(key, await self._review_token(token, key)),)
        viewer = known[0]
        if viewer is None:
            raise NotAllowed(401, "The cluster does not accept this token for this page, or it has expired.")
        if not self._views.allows(key):
            raise NotAllowed(429, "Too many requests with this token. Try again in some seconds.")
        return viewer

    async def may_get(self, viewer: Viewer, namespace: str, name: str) -> bool:
        """Say whether ``viewer`` may read this FineTuneJob."""
        return await self._may(viewer, "get", namespace, name)

    async def filter_namespaces(self, viewer: Viewer, namespaces: Iterable[str]) -> tuple[frozenset[str], int]:
        """Return those of ``namespaces`` whose FineTuneJobs ``viewer`` may list, and how many were not asked about."""
        wanted = sorted(set(namespaces))
        if await self._may(viewer, "list", ""):
            return frozenset(wanted), 0
        asked = wanted[:NAMESPACES_REVIEWED]
        answers = await asyncio.gather(*(self._may(viewer, "list", each) for each in asked))
        return frozenset(each for each, allowed in zip(asked, answers, strict=True) if allowed), len(wanted) - len(asked)

    async def _may(self, viewer: Viewer, verb: str, namespace: str, name: str = "") -> bool:
        key = f"{viewer.key} {verb} {namespace} {name}"
        known = self._rights.get(key)
        if known is not None:
            return known[0]
        attributes = {"group": GROUP, "resource": PLURAL, "verb": verb, "namespace": namespace, "name": name}
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SubjectAccessReview",
            "spec": {**viewer.identity, "resourceAttributes": attributes},
        }
        async with self._gate:
            answer = (await self._client.create(SUBJECT_ACCESS_REVIEWS, None, review)).get("status") or {}
        return self._rights.keep(key, answer.get("allowed") is True and not answer.get("denied"))

    async def _review_token(self, token: str, key: str) -> Viewer | None:
        for audiences in ([AUDIENCE], []) if self._api_tokens else ([AUDIENCE],):
            spec = {"token": token, **({"audiences": audiences} if audiences else {})}
            review = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": spec}
            async with self._gate:
                answer = (await self._client.create(TOKEN_REVIEWS, None, review)).get("status") or {}
            # An API server that knows no audiences answers without them: then the token proves nothing about its purpose.
            if answer.get("authenticated") is not True or (audiences and AUDIENCE not in (answer.get("audiences") or ())):
                continue
            user = answer.get("user") or {}
            if not user.get("username"):
                continue
            identity = {"user": user["username"], **{part: user[part] for part in ("uid", "groups", "extra") if part in user}}
            return Viewer(user["username"], key, identity)
        return None
