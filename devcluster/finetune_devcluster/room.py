"""Room on the disk: what does not fit is said before the minutes are spent, and a full disk in words that help."""

import shutil
from collections.abc import Iterable
from pathlib import Path

from finetune_devcluster.errors import DevClusterError

_FULL = "no space left on device"


def require_room(folder: Path, needed_bytes: int, purpose: str) -> None:
    """Fail where the disk of `folder` (which may not be there yet) has less than `needed_bytes` free.

    Raises:
        DevClusterError: it has less; the message says how much, and what to do.
    """
    free = _measure_free(folder)
    if free < needed_bytes:
        raise DevClusterError(
            f"{purpose} needs about {_say(needed_bytes)} of disk, and {_say(free)} are free where {folder} is: make room, "
            "or set FINETUNE_CACHE to a folder on a larger disk"
        )


def describe_full_disk(lines: Iterable[str], folder: Path) -> str:
    """Return what to do where a program's words say that the disk was full; else nothing."""
    if not any(_FULL in line.lower() for line in lines):
        return ""
    return (
        f"\nThe disk is full ({_say(_measure_free(folder))} free where {folder} is, now that the program has ended): make room, "
        "or set FINETUNE_CACHE to a folder on a larger disk."
    )


def _measure_free(folder: Path) -> int:
    there = next(each for each in (folder, *folder.parents) if each.exists())
    return shutil.disk_usage(there).free


def _say(size_bytes: int) -> str:
    return f"{size_bytes / 2**30:.1f} GiB"
