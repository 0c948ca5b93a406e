"""How a run ends: any exception becomes an exit code and a summary, the pod's last word."""

import contextlib
import errno
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from finetune_api.exit_codes import OUTCOMES, ExitCode
from finetune_api.names import TERMINATION_MESSAGE_PATH
from finetune_api.summary import TrainerSummary, encode_summary
from finetune_trainer.errors import TrainerError

logger = logging.getLogger(__name__)

ENV_TERMINATION_MESSAGE: Final = "FINETUNE_TERMINATION_MESSAGE_PATH"
"""File that the summary is written to instead of the kubelet's."""
_NO_ROOM: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
_NO_ROOM_WORDS: Final = ("No space left on device", ". unexpected pos ")
"""What torch and safetensors say, which write their files themselves. The second is torch's file writer (inline_container.cc) when less was
written than it had asked for; it says no more.
"""
_MESSAGE_MAX_CHARACTERS: Final = 4000


def classify_exception(error: BaseException) -> tuple[ExitCode, str]:
    """Return the exit code that ``error`` ends the pod with, and what to say. Looks at what it was raised from, too."""
    for cause in _chain(error):
        if isinstance(cause, TrainerError):
            return cause.exit_code, cause.message
    for cause in _chain(error):
        if is_out_of_memory(cause):
            return ExitCode.OUT_OF_MEMORY, f"out of memory: {_first_line(cause)}"
        if _is_out_of_room(cause):
            return ExitCode.STORAGE_FAILED, (
                f"the local disk is full: {_first_line(cause)}; raise resources.ephemeralStorage, or use a node with a larger disk"
            )
    return ExitCode.CRASHED, f"{type(error).__name__}: {error}"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether ``error`` says that memory is used up: Python's, the processor's or the GPU's. Needs no torch."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and ("out of memory" in text or "can't allocate memory" in text or "not enough memory" in text)


def _is_out_of_room(error: BaseException) -> bool:
    if isinstance(error, OSError):
        return error.errno in _NO_ROOM
    return any(words in str(error) for words in _NO_ROOM_WORDS)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def build_failure(code: ExitCode, message: str) -> TrainerSummary:
    """Build the summary of a run that ended by ``code`` and knows nothing more."""
    outcome = "interrupted" if OUTCOMES[code].retry == "free" else "failed"
    return TrainerSummary(outcome=outcome, reason=OUTCOMES[code].reason, message=message[:_MESSAGE_MAX_CHARACTERS])


def write_summary(summary: TrainerSummary) -> None:
    """Write the termination message, and in local runs (no kubelet made the file) also a line on standard output.

    The kubelet's file is a mount of its own, which can't be replaced by renaming, so it is written in place with one call: at most 4,096
    bytes, which a reader never sees in part.
    """
    text = encode_summary(summary)
    chosen = os.environ.get(ENV_TERMINATION_MESSAGE)
    path = Path(chosen or TERMINATION_MESSAGE_PATH)
    in_pod = chosen is None and path.exists()
    if not in_pod:
        with contextlib.suppress(OSError, RuntimeError):  # RuntimeError: a signal came in the midst of another print
            print(text, file=sys.stdout, flush=True)  # noqa: T201  the result of a local run
    if not in_pod and chosen is None:
        return
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        try:
            os.write(descriptor, text.encode())
        finally:
            os.close(descriptor)
    except OSError as error:
        logger.warning("the summary can't be written to %s: %s; it reads %s", path, error, text)
