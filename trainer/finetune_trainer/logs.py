"""The log: JSON lines for machines, text for a terminal."""

import json
import logging
import os
import sys
import warnings
from datetime import UTC, datetime
from typing import Final

from finetune_api.report import JobReference

ENV_FORMAT: Final = "FINETUNE_LOG_FORMAT"
"""``json`` or ``text``; by default text on a terminal and JSON elsewhere."""
_NOISY: Final = (
    "bitsandbytes",
    "httpx",
    "httpcore",
    "urllib3",
    "fsspec",
    "botocore",
    "aiobotocore",
    "s3fs",
    "filelock",
    "datasets",
    "numexpr",
    "torch",
)


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message, and the fields of the run."""

    def __init__(self, fields: dict[str, str | int]) -> None:
        super().__init__()
        self._fields = fields

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of ``record``."""
        entry = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **self._fields,
        }
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        return json.dumps(entry, ensure_ascii=False, default=str)


class TextFormatter(logging.Formatter):
    """Lines for people."""

    def __init__(self, fields: dict[str, str | int]) -> None:
        job = f" [{fields['job']}]" if "job" in fields else ""
        super().__init__(f"%(asctime)s %(levelname).1s{job} %(message)s", "%H:%M:%S")


def set_up_logging(job: JobReference | None = None, attempt: int | None = None) -> None:
    """Send the log to standard error; with ``job`` and ``attempt`` in each line once they are known."""
    fields: dict[str, str | int] = {}
    if job is not None:
        fields |= {"job": f"{job.namespace}/{job.name}", "uid": job.uid}
    if attempt is not None:
        fields["attempt"] = attempt
    chosen = os.environ.get(ENV_FORMAT) or ("text" if sys.stderr.isatty() else "json")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(TextFormatter(fields) if chosen == "text" else JsonFormatter(fields))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    logging.captureWarnings(capture=True)
    warnings.formatwarning = _format_warning
    for name in _NOISY:
        logging.getLogger(name).setLevel(logging.ERROR if name == "bitsandbytes" else logging.WARNING)


def quieten_libraries() -> None:
    """Send transformers' own log through ours, without its progress bars and repeated advice. Call it once transformers is loaded."""
    from datasets.utils import disable_progress_bars  # noqa: PLC0415  loaded late on purpose
    from transformers.utils import logging as transformers_logging  # noqa: PLC0415

    transformers_logging.disable_default_handler()
    transformers_logging.enable_propagation()
    transformers_logging.set_verbosity_warning()  # type: ignore[no-untyped-call]
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    disable_progress_bars()
    # It says at every multiplication that LLM.int8() computes in float16
    logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
    # What libraries tell each other's developers is no news of the run
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"(transformers|trl|peft|accelerate|torch)\b")


def _format_warning(message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None) -> str:
    """One line: where in a library it was raised helps nobody who reads the log of a run."""
    del filename, lineno, line
    return f"{category.__name__}: {message}"
