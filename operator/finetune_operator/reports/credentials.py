"""Keeping the receiver's certificate in its Secret: made once, shared by all replicas, renewed in time."""

import asyncio
import base64
import logging
import ssl
import tempfile
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from finetune_operator.kube.client import SECRETS, ApiError, KubeClient, Manifest
from finetune_operator.reports.certificate import (
    AUTHORITY_RENEWAL,
    LEAF_RENEWAL,
    KeyPair,
    build_authority,
    build_certificate,
    covers,
    is_issued_by,
    is_sound,
    needs_renewal,
    read_expiry,
)

CHECK_SECONDS: Final = 3600.0
"""Time between two looks at the certificate's age."""
ATTEMPTS: Final = 5
"""Times that a write is tried again because another replica was faster."""

log = logging.getLogger(__name__)


class ReceiverCredentials:
    """The receiver's certificate, in the Secret and in the TLS context that serves it."""

    def __init__(self, client: KubeClient, namespace: str, name: str, hosts: list[str], clock: Callable[[], datetime]) -> None:
        self._client = client
        self._namespace = namespace
        self._name = name
        self._hosts = hosts
        self._clock = clock
        self._served: KeyPair | None = None
        self.authority = ""
        """PEM of the authority that trainers check the receiver by."""
        self.context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_2

    @property
    def expiry(self) -> datetime | None:
        """When the certificate that is served ends; None before there is one."""
        return read_expiry(self._served.certificate) if self._served is not None else None

    async def load(self) -> None:
        """Read the Secret, make or renew what is missing or old, and serve the result; connections that are open stay so.

        :raises ApiError: the Secret can't be read or written.
        """
        for _ in range(ATTEMPTS):
            try:
                authority, leaf = await self._ensure()
            except ApiError as error:
                if not error.conflict:
                    raise
                continue  # another replica wrote first: read what it wrote
            self.authority = authority.certificate.decode()
            if leaf != self._served:
                await asyncio.to_thread(self._serve, leaf)
                self._served = leaf
            return
        raise ApiError(409, "Conflict", "the Secret changed at every try", f"Secret {self._namespace}/{self._name}")

    async def renew_forever(self) -> None:
        """Look at the certificate's age now and then."""
        while True:
            await asyncio.sleep(CHECK_SECONDS)
            try:
                await self.load()
            except Exception:
                log.exception("certificate not renewed; the next try is in %.0f s", CHECK_SECONDS)

    async def _ensure(self) -> tuple[KeyPair, KeyPair]:
        secret = await self._read()
        now = self._clock()
        authority, leaf = _pair(secret, "ca.crt", "ca.key"), _pair(secret, "tls.crt", "tls.key")
        if authority is None or needs_renewal(authority.certificate, AUTHORITY_RENEWAL, now):
            authority, leaf = build_authority(now), None
        elif (
            leaf is not None
            and not needs_renewal(leaf.certificate, LEAF_RENEWAL, now)
            and is_issued_by(leaf.certificate, authority.certificate)
            and covers(leaf.certificate, self._hosts)
        ):
            return authority, leaf
        leaf = build_certificate(authority, self._hosts, now)
        data = {"ca.crt": authority.certificate, "ca.key": authority.key, "tls.crt": leaf.certificate, "tls.key": leaf.key}
        patch = {
            "metadata": {"resourceVersion": secret["metadata"]["resourceVersion"]},
            "data": {key: base64.b64encode(value).decode() for key, value in data.items()},
        }
        await self._client.merge_patch(SECRETS, self._namespace, self._name, patch)
        log.info("certificate of the report receiver renewed", extra={"hosts": self._hosts})
        return authority, leaf

    async def _read(self) -> Manifest:
        """Return the Secret. The chart makes it, empty; elsewhere (a development run) it is made here."""
        try:
            return await self._client.get(SECRETS, self._namespace, self._name)
        except ApiError as error:
            if not error.not_found:
                raise
        manifest = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": self._name}, "type": "Opaque"}
        return await self._client.create(SECRETS, self._namespace, manifest)

    def _serve(self, leaf: KeyPair) -> None:
        # OpenSSL takes a certificate chain from files only.
        with tempfile.TemporaryDirectory() as folder:
            certificate, key = Path(folder, "tls.crt"), Path(folder, "tls.key")
            certificate.write_bytes(leaf.certificate)
            key.touch(mode=0o600)
            key.write_bytes(leaf.key)
            self.context.load_cert_chain(certificate, key)


def _pair(secret: dict[str, Any], certificate: str, key: str) -> KeyPair | None:
    data = secret.get("data") or {}
    if certificate not in data or key not in data:
        return None
    pair = KeyPair(base64.b64decode(data[certificate]), base64.b64decode(data[key]))
    return pair if is_sound(pair) else None
