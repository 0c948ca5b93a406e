"""Many files at once: parallel, with the progress in the log."""

import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path

from finetune_trainer.storage.store import Advance, Store, StoredFile, check_free_space

WORKERS = 8
"""Files that move at the same time."""
_LOG_SECONDS = 10.0
logger = logging.getLogger(__name__)


class TransferAborted(Exception):
    """Another file of the same transfer has failed."""


@dataclass(slots=True)
class ProgressLog:
    """Logs how far a transfer is, at most every ten seconds, and ends it where it is no use going on."""

    what: str
    total: int
    moved: int = 0
    aborted: bool = False
    _started: float = field(default_factory=time.monotonic)
    _logged: float = field(default_factory=time.monotonic)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def advance(self, moved: int) -> None:
        """Count ``moved`` more bytes. A file tried again counts again: the share is capped, the rate stays true."""
        if self.aborted:
            raise TransferAborted("another file failed")
        with self._lock:
            self.moved += moved
            now = time.monotonic()
            if now - self._logged < _LOG_SECONDS:
                return
            self._logged = now
        rate = self.moved / max(now - self._started, 1e-3)
        share = min(99, 100 * self.moved // max(self.total, 1))
        logger.info("%s: %d%% of %s, %s/s", self.what, share, format_bytes(self.total), format_bytes(int(rate)))

    def abort(self) -> None:
        """End the files under way at their next block."""
        self.aborted = True

    def finish(self) -> None:
        """Log the end."""
        logger.info("%s: %s in %.1f s", self.what, format_bytes(self.total), time.monotonic() - self._started)


def format_bytes(number: int) -> str:
    """Return ``number`` of bytes for people, in binary units."""
    value = float(number)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def download_files(store: Store, files: Sequence[StoredFile], folder: Path, prefix: str = "") -> None:
    """Download ``files``, whose paths are below ``prefix`` of ``store``, to the same paths below ``folder``.

    Files that are there with the right size already are kept, so that a container restarted in the same pod does not fetch them anew.
    Killed at any moment, this leaves whole files and ``.part`` files, and may be called again.

    :raises StorageFailed: the disk is too small (checked before the first byte), or the store failed.
    """
    missing = [file for file in files if not _is_there(folder / file.path, file.size)]
    needed = sum(file.size for file in missing)
    check_free_space(folder, needed, f"{store.uri} ({format_bytes(needed)} to download)")
    progress = ProgressLog(f"downloading {store.uri}", needed)
    start = f"{prefix}/" if prefix else ""
    in_parallel(
        [_bind(store.download, start + file.path, folder / file.path, file.size or None, progress.advance) for file in missing],
        abort=progress.abort,
    )
    if missing:
        progress.finish()


def upload_files(store: Store, folder: Path, paths: Iterable[str], prefix: str = "") -> None:
    """Upload the files at ``paths`` below ``folder`` to the same paths below ``prefix``. Killed midway, some are there and some not."""
    names = list(paths)
    progress = ProgressLog(f"uploading {store.locate(prefix)}", sum((folder / name).stat().st_size for name in names))
    start = f"{prefix}/" if prefix else ""
    in_parallel([_bind_upload(store, folder / name, start + name, progress.advance) for name in names], abort=progress.abort)
    progress.finish()


def _is_there(file: Path, size: int) -> bool:
    return size > 0 and file.is_file() and file.stat().st_size == size


def _bind(call: Callable[..., None], path: str, target: Path, size: int | None, advance: Advance) -> Callable[[], None]:
    return lambda: call(path, target, size, advance)


def _bind_upload(store: Store, source: Path, path: str, advance: Advance) -> Callable[[], None]:
    return lambda: store.upload(source, path, advance)


def in_parallel(tasks: Sequence[Callable[[], None]], workers: int = WORKERS, abort: Callable[[], None] | None = None) -> None:
    """Run ``tasks`` in threads and raise the first fault. Tasks that have not begun by then are left out; those under way are told by
    ``abort``, and waited for, so that nothing goes on behind the caller's back.
    """
    if not tasks:
        return
    with ThreadPoolExecutor(min(workers, len(tasks)), thread_name_prefix="transfer") as pool:
        futures = [pool.submit(task) for task in tasks]
        done, under_way = wait(futures, return_when=FIRST_EXCEPTION)
        faults = [fault for future in done if (fault := future.exception()) is not None]
        if under_way and abort is not None:
            abort()
        pool.shutdown(wait=True, cancel_futures=True)
    if faults:
        raise faults[0]
