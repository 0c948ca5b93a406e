"""Folders of the machine that serve as mount points: made for the first cluster that needs them, removed after the last.

A cluster mounts over them in a mount namespace of its own. Linux lets a folder go that is a mount point in another namespace only, and
takes that mount with it: the cluster there would lose its files. So one goes only once no process has anything mounted on it.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from finetune_devcluster.files import hold_lock, write_atomic
from finetune_devcluster.paths import compute_cache_root

_LOCK_TIMEOUT = 60.0


@contextlib.contextmanager
def made(folders: list[str]) -> Iterator[None]:
    """Make what is missing of `folders`, and keep others from removing it while the block mounts over it."""
    with _ledger() as ledger:
        ours = _read(ledger)
        ours.update(each for each in folders if not Path(each).exists())
        # Remembered before they are made: what dies in between is taken away all the same.
        write_atomic(ledger, "".join(f"{each}\n" for each in sorted(ours)))
        for each in folders:
            Path(each).mkdir(parents=True, exist_ok=True)
        yield


def remove_unused() -> None:
    """Remove the folders that were made here and that no cluster uses any more."""
    with _ledger() as ledger:
        ours = _read(ledger)
        if not ours:
            return
        for each in sorted(ours - _observe_mounted(), reverse=True):
            # Not empty, or not there: then something else uses it by now, or it was never made.
            with contextlib.suppress(OSError):
                Path(each).rmdir()
            ours.discard(each)
        if ours:
            write_atomic(ledger, "".join(f"{each}\n" for each in sorted(ours)))
        else:
            ledger.unlink(missing_ok=True)


@contextlib.contextmanager
def _ledger() -> Iterator[Path]:
    folder = compute_cache_root() / "locks"
    with hold_lock(folder / "mount-points.lock", _LOCK_TIMEOUT, "making mount points"):
        yield folder / "mount-points"


def _read(ledger: Path) -> set[str]:
    return set(ledger.read_text().splitlines()) if ledger.exists() else set()


def _observe_mounted() -> set[str]:
    """Return the mount points of every process on the machine."""
    mounted: set[str] = set()
    for table in Path("/proc").glob("[0-9]*/mountinfo"):
        with contextlib.suppress(OSError):  # the process has just ended
            mounted.update(line.split(" ")[4] for line in table.read_text().splitlines())
    return mounted
