"""Who sent a report: TokenReview of a pod-bound token, remembered for a short while."""

import asyncio
import hashlib
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from finetune_operator.kube.client import TOKEN_REVIEWS, KubeClient
from finetune_operator.reports.limits import RateLimit

REMEMBER_SECONDS: Final = 60.0
"""A verified token is not reviewed again for this long; so long can a deleted pod's token still pass this first check."""
REMEMBER_REFUSED_SECONDS: Final = 10.0
TOKENS_KEPT: Final = 20_000
TOKEN_MAX_CHARACTERS: Final = 8192
REVIEWS_PER_SECOND: Final = 100.0
REVIEWS_AT_ONCE: Final = 8

POD_UID: Final = "authentication.kubernetes.io/pod-uid"
SERVICE_ACCOUNT: Final = "system:serviceaccount:"


class Refused(Exception):
    """A report that is not taken; ``status`` is the HTTP status that says so."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


@dataclass(frozen=True, slots=True)
class Sender:
    """The pod that a token is bound to."""

    namespace: str
    pod_uid: str


class Authenticator:
    """Finds out by TokenReview which pod a token belongs to."""

    def __init__(self, client: KubeClient) -> None:
        self._client = client
        self._known: OrderedDict[str, tuple[float, Sender | None]] = OrderedDict()
        self._reviews = RateLimit(REVIEWS_PER_SECOND, REVIEWS_PER_SECOND)
        self._gate = asyncio.Semaphore(REVIEWS_AT_ONCE)

    async def authenticate(self, token: str, audience: str) -> Sender:
        """Return the pod that ``token`` is bound to, if it was made for ``audience``.

        :raises Refused: 401 for a token that isn't genuine, was made for something else or is bound to no pod; 429 where too many
            unknown tokens come at once.
        :raises ApiError: the API server did not answer.
        """
        if not token or len(token) > TOKEN_MAX_CHARACTERS or not token.isascii():
            raise Refused(401, "a bearer token is needed")
        key = hashlib.sha256(f"{audience}\n{token}".encode()).hexdigest()
        known = self._known.get(key)
        if known is None or known[0] < time.monotonic():
            if not self._reviews.allows():
                raise Refused(429, "too many unknown tokens; try again later")
            async with self._gate:
                sender = await self._review(token, audience)
            seconds = REMEMBER_SECONDS if sender is not None else REMEMBER_REFUSED_SECONDS
            known = self._known[key] = (time.monotonic() + seconds, sender)
            if len(self._known) > TOKENS_KEPT:
                self._known.popitem(last=False)
        if known[1] is None:
            raise Refused(401, "the token is not valid for this run, or is bound to no pod")
        return known[1]

    async def _review(self, token: str, audience: str) -> Sender | None:
        review = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenReview",
            "spec": {"token": token, "audiences": [audience]},
        }
        answer = (await self._client.create(TOKEN_REVIEWS, None, review)).get("status", {})
        user = answer.get("user", {})
        pod_uid = next(iter(user.get("extra", {}).get(POD_UID, ())), None)
        # An API server that knows no audiences answers without them: then the token proves nothing about its purpose.
        if not answer.get("authenticated") or audience not in answer.get("audiences", ()) or pod_uid is None:
            return None
        username: str = user.get("username", "")
        if not username.startswith(SERVICE_ACCOUNT):
            return None
        return Sender(namespace=username.removeprefix(SERVICE_ACCOUNT).split(":")[0], pod_uid=pod_uid)
