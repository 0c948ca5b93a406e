"""Files that are whole or absent, and locks between processes."""

import fcntl
import json
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from finetune_devcluster.errors import DevClusterError

_SILENCE = 3.0
"""How long a wait for a lock goes without a word, in seconds."""


def write_atomic(path: Path, content: str | bytes, mode: int = 0o644) -> Path:
    """Write a file so that a reader, or a crash, sees the old content or the new one and nothing between."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content.encode() if isinstance(content, str) else content)
        Path(temporary).chmod(mode)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return path


def write_json(path: Path, value: object, mode: int = 0o644) -> Path:
    """Write `value` as indented JSON, atomically."""
    return write_atomic(path, json.dumps(value, indent=1) + "\n", mode)


@contextmanager
def hold_lock(path: Path, timeout: float, doing: str) -> Iterator[None]:
    """Hold an exclusive lock on `path` for the length of the block; a dead holder frees it by dying.

    Raises:
        DevClusterError: another process still held the lock after `timeout` seconds.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    started = time.monotonic()
    deadline, told = started + timeout, False
    try:
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise DevClusterError(
                        f"another process has been {doing} for {timeout:.0f} s (lock {path}): wait for it, or stop it"
                    ) from None
                if not told and time.monotonic() > started + _SILENCE:
                    print(f"waiting: another process is {doing}", flush=True)
                    told = True
                time.sleep(0.05)
        yield
    finally:
        os.close(handle)
