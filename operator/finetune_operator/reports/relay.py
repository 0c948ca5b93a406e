"""Handing a report on to the leading replica, which alone writes status."""

import asyncio
import logging
import ssl
from collections.abc import Callable
from typing import Final, Protocol

import aiohttp

from finetune_api.names import REPORT_PATH

RELAY_SECONDS: Final = 5.0
"""How long the leader may take; the next report comes soon."""

log = logging.getLogger(__name__)


class Leads(Protocol):
    """Who leads."""

    @property
    def seconds_left(self) -> float:
        """How long this replica may still write; 0 where it doesn't lead."""

    @property
    def leader_address(self) -> str | None:
        """Host and port of the leader's receiver, where another replica leads."""


class Relay:
    """Hands reports on, over TLS, with the certificate that all replicas share.

    :param host: the name that the certificate is for.
    :param authority: returns the PEM of the authority that signed it.
    """

    def __init__(self, leadership: Leads, host: str, authority: Callable[[], str]) -> None:
        self._leadership = leadership
        self._host = host
        self._authority = authority
        self._session: aiohttp.ClientSession | None = None
        self._trusted: tuple[str, ssl.SSLContext] | None = None

    @property
    def is_needed(self) -> bool:
        """True where this replica does not lead."""
        return self._leadership.seconds_left <= 0

    async def hand_on(self, body: bytes, authorization: str) -> tuple[int, bytes]:
        """Send a report to the leader and return its answer: status and body. 503 where there is none at the moment."""
        address = self._leadership.leader_address
        if not address:
            return 503, b'{"message": "no replica leads at the moment; send the next report"}'
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=RELAY_SECONDS))
        headers = {"Authorization": authorization, "Content-Type": "application/json"}
        url = f"https://{address}{REPORT_PATH}"
        try:
            async with self._session.post(url, data=body, headers=headers, ssl=self._build_tls(), server_hostname=self._host) as answer:
                return answer.status, await answer.read()
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            log.info("report not handed on to %s: %s", address, error)
            return 503, b'{"message": "the leading replica does not answer; send the next report"}'

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()
            await asyncio.sleep(0)

    def _build_tls(self) -> ssl.SSLContext:
        authority = self._authority()
        if self._trusted is None or self._trusted[0] != authority:
            self._trusted = (authority, ssl.create_default_context(cadata=authority))
        return self._trusted[1]
