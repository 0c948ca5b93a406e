"""One POST of a report."""

import http.client
import ssl
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from finetune_api.trainer_config import ReportingConfig

TIMEOUT_SECONDS: Final = 3.0
"""Longest silence of the receiver."""


class ReportRefused(Exception):
    """The receiver answered, and did not take the report."""

    def __init__(self, status: int) -> None:
        super().__init__(f"the receiver answered {status}")
        self.status = status


class ReportClient:
    """Sends reports to one receiver.

    Goes straight to it: proxies of the environment are for the world outside the cluster, and a redirect, which would carry the token
    elsewhere, is a refusal.
    """

    def __init__(self, config: ReportingConfig) -> None:
        parts = urlsplit(config.url)
        if parts.scheme != "https" or parts.hostname is None:
            raise ValueError(f"reporting.url {config.url!r} is not an https URL with a host")
        self._host = parts.hostname
        self._port = parts.port or 443
        self._path = parts.path or "/"
        self._token = Path(config.token_path)
        self._tls = ssl.create_default_context(cadata=config.ca_certificate)

    def send(self, body: bytes, timeout: float = TIMEOUT_SECONDS) -> None:
        """POST ``body`` once.

        :param timeout: longest silence of the receiver, in seconds.
        :raises ReportRefused: the receiver answered with anything but success.
        :raises OSError: no connection, no trust, no token, or no answer in time.
        """
        token = self._token.read_text(encoding="ascii").strip()  # anew each time: the kubelet renews it
        connection = http.client.HTTPSConnection(self._host, self._port, timeout=timeout, context=self._tls)
        try:
            connection.request("POST", self._path, body, {"Authorization": f"Bearer {token}", "Content-Type": "application/json"})
            status = connection.getresponse().status
        finally:
            connection.close()
        if not 200 <= status < 300:
            raise ReportRefused(status)


class ReportFile:
    """Leaves the newest report in a file, for a display on the same machine; a reader sees the old one or the new one, whole."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def send(self, body: bytes) -> None:
        """Replace the file by ``body``.

        :raises OSError: it can't be written.
        """
        partial = self._path.with_name(f".{self._path.name}.partial")
        partial.write_bytes(body)
        partial.replace(self._path)
