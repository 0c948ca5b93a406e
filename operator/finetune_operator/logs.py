"""Logs: one JSON object a line for machines, plain lines for people."""

import json
import logging
import sys
from datetime import UTC, datetime

from finetune_operator.log_context import read_subject

_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "settings", "k8s_skip", "k8s_ref"}


class JsonFormatter(logging.Formatter):
    """Writes a record as one JSON object, with the run that it speaks of and whatever was given as ``extra``."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as JSON."""
        entry: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **read_subject(),
            **{key: value for key, value in record.__dict__.items() if key not in _STANDARD},
        }
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry, default=str)


def configure_logging(level: str, style: str) -> None:
    """Send logs to standard error, as ``json`` or ``text``."""
    handler = logging.StreamHandler(sys.stderr)
    plain = logging.Formatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s")
    handler.setFormatter(JsonFormatter() if style == "json" else plain)
    logging.basicConfig(level=level, handlers=[handler], force=True)
    for chatty in ("kopf.objects", "kopf.activities", "aiohttp.access"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
