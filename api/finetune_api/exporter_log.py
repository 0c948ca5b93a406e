"""What OpenTelemetry's exporter of spans writes into the log: a receiver that is down for hours is no news at every batch."""

import logging
import time
from typing import Final

_LOGGERS: Final = ("opentelemetry.exporter.otlp.proto.http.trace_exporter", "opentelemetry.sdk._shared_internal")


def thin_exporter_log(seconds: float) -> None:
    """Let each of the exporter's loggers write one record in so many ``seconds``."""
    for name in _LOGGERS:
        logging.getLogger(name).addFilter(_NowAndThen(seconds))


class _NowAndThen(logging.Filter):
    """Lets one record in so many seconds through."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self._seconds = seconds
        self._next = 0.0

    def filter(self, record: logging.LogRecord) -> bool:
        del record
        if time.monotonic() < self._next:
            return False
        self._next = time.monotonic() + self._seconds
        return True
