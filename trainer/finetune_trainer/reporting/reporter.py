"""The background thread that reports."""

import http.client
import logging
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from finetune_api.names import ENV_REPORT_FILE, REPORT_MAX_BYTES
from finetune_api.report import TrainerReport
from finetune_api.trainer_config import ReportingConfig
from finetune_trainer.reporting.client import ReportClient, ReportFile, ReportRefused

logger = logging.getLogger(__name__)

FLUSH_SECONDS: Final = 2.0
"""Longest wait for the last report."""
FILE_SECONDS: Final = 0.5
"""Shortest time between two reports to a file."""


class Reporter:
    """Sends the newest report whenever something changed, at most once in ``interval_seconds``.

    A report that can't be sent is dropped: the next one says more. Nothing here raises, and :meth:`notify` only sets a flag.

    :param build: makes the report of this moment, given its number. Called in the reporter's thread.
    """

    def __init__(self, config: ReportingConfig | None, build: Callable[[int], TrainerReport]) -> None:
        self._config = config
        self._build = build
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._sequence = 0
        self._last_fault = ""
        self.sent = 0
        """Reports that were taken."""
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        if self._config is not None:
            try:
                self._start(ReportClient(self._config), self._config.interval_seconds)
            except (ValueError, OSError) as error:
                logger.warning("no reports are sent: reporting is not set up rightly: %s", error)
        elif file := os.environ.get(ENV_REPORT_FILE):
            self._start(ReportFile(Path(file)), FILE_SECONDS)
        return self

    def _start(self, client: ReportClient | ReportFile, interval: float) -> None:
        self._thread = threading.Thread(target=self._work, args=(client, interval), name="reporter", daemon=True)
        self._thread.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def notify(self) -> None:
        """Say that something changed."""
        self._wake.set()

    def close(self) -> None:
        """Send one last report and stop; waits at most :data:`FLUSH_SECONDS` seconds."""
        if self._thread is not None:
            self._closing.set()
            self._wake.set()
            self._thread.join(FLUSH_SECONDS)

    def _work(self, client: ReportClient | ReportFile, interval: float) -> None:
        while not self._closing.is_set():
            self._wake.wait()
            self._wake.clear()
            if self._closing.is_set():
                break
            begun = time.monotonic()
            self._send(client)
            self._closing.wait(max(0.0, begun + interval - time.monotonic()))
        self._send(client)

    def _send(self, client: ReportClient | ReportFile) -> None:
        try:
            self._sequence += 1
            body = self._build(self._sequence).model_dump_json(exclude_none=True).encode()
            if len(body) > REPORT_MAX_BYTES:
                raise ValueError(f"the report has {len(body)} bytes; the receiver reads {REPORT_MAX_BYTES}")
            client.send(body)
        except (OSError, http.client.HTTPException, ReportRefused, ValueError) as error:
            fault = f"{type(error).__name__}: {error}"
            if fault != self._last_fault:  # a receiver that is down for hours is one line, not thousands
                logger.warning("report not sent (training goes on): %s", fault)
            self._last_fault = fault
        else:
            self.sent += 1
            self._last_fault = ""
