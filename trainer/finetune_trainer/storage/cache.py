"""A volume with base models of the hub that several runs share: filled by one, read by all.

Below the root, ``models/<key>/`` holds a whole model and its ``cache-entry.json``; ``partial/<key>/`` one that is being fetched;
``locks/<key>`` is held meanwhile; and ``uses/<key>`` was touched when the model was last asked for. The key follows from hub, repository
and commit, so what is there never changes. A model appears by the renaming of its folder, once its files have been read back and are on
the disk. The lock is the kernel's own (``flock``), which lets go of it when its holder dies; where the file system has none, each fetches
for itself, and the first one's model stays.
"""

import errno
import fcntl
import hashlib
import logging
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydantic import Field, ValidationError

from finetune_api.base import StoredModel
from finetune_trainer.storage.digest import digest_files
from finetune_trainer.storage.transfer import format_bytes

logger = logging.getLogger(__name__)

ENTRY: Final = "cache-entry.json"
DAY: Final = 86_400.0
_NO_LOCKS: Final = frozenset({errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL})


class CachedFile(StoredModel):
    """One file of a model."""

    size: int
    """Bytes."""
    digest: str
    """`sha256:…`."""


class CacheEntry(StoredModel):
    """What is known of a model in the cache."""

    uri: str
    """Where it came from."""
    commit: str
    """Commit of the hub's repository."""
    digest: str | None = None
    """SHA-256 over configuration and weights, as the artifact's manifest records it."""
    files: dict[str, CachedFile] = Field(default_factory=dict)
    """Its files, by name."""

    @property
    def size_bytes(self) -> int:
        """All files together."""
        return sum(file.size for file in self.files.values())


class LockTimeout(Exception):
    """Another holds the lock for longer than one wants to wait."""


@dataclass(frozen=True, slots=True)
class Usage:
    """How full a cache is. All in bytes."""

    entries: dict[str, CacheEntry]
    """Whole models, by key."""
    partial_bytes: int
    """Models that are being fetched, or were when their fetcher died."""
    free_bytes: int
    total_bytes: int

    def __str__(self) -> str:
        """Return the usage as a line of a log."""
        held = format_bytes(sum(entry.size_bytes for entry in self.entries.values()))
        free, total = format_bytes(self.free_bytes), format_bytes(self.total_bytes)
        return f"{len(self.entries)} models, {held}; {format_bytes(self.partial_bytes)} unfinished; {free} free of {total}"


class ModelCache:
    """The cache below one folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def path_of(self, key: str) -> Path:
        """Return the folder of a whole model."""
        return self.root / "models" / key

    def find(self, key: str) -> CacheEntry | None:
        """Return the entry of a model whose files all have their sizes, or None where there is none."""
        folder = self.path_of(key)
        try:
            entry = CacheEntry.model_validate_json((folder / ENTRY).read_bytes())
            whole = bool(entry.files) and all((folder / name).stat().st_size == file.size for name, file in entry.files.items())
        except (OSError, ValidationError):
            return None
        return entry if whole else None

    def verify(self, key: str) -> CacheEntry | None:
        """Return the entry of a model whose every file was read and is as it was published; None of any other."""
        entry = self.find(key)
        if entry is None:
            return None
        folder = self.path_of(key)
        try:
            damaged = _compare(folder, entry)
        except OSError as error:
            damaged = [str(error)]
        if damaged:
            logger.warning("the cached model %s (%s) is damaged: %s", key, entry.uri, ", ".join(damaged))
            return None
        return entry

    def fill(self, key: str, fetch: Callable[[Path], CacheEntry], wait_seconds: float) -> CacheEntry:
        """Return the entry of the model ``key``, having fetched it where nobody has. Of several at once, one fetches and the rest wait.

        ``fetch`` brings the files to a folder, where some may be from a try that ended early, and says what they are.

        :raises LockTimeout: another fetches it, and is not done after ``wait_seconds``.
        :raises OSError: the volume failed.
        """
        self._note_use(key)
        if (entry := self.find(key)) is not None:
            return entry
        with self._locked(key, wait_seconds) as alone:
            if (entry := self.find(key)) is not None:
                return entry
            folder = self.root / "partial" / (key if alone else f"{key}.{uuid.uuid4().hex}")
            folder.mkdir(parents=True, exist_ok=True)
            described = fetch(folder)
            shutil.rmtree(folder / ".cache", ignore_errors=True)  # the hub client's own notes
            described = described.model_copy(update={"files": _describe_files(folder)})
            _write_synced(folder / ENTRY, described.model_dump_json(indent=1).encode())
            self._publish(folder, key)
        return described

    def discard(self, key: str) -> None:
        """Take a model that is damaged out of the way; a reader that has files of it open keeps them."""
        gone = self.root / "partial" / f"{key}.{uuid.uuid4().hex}"
        gone.parent.mkdir(parents=True, exist_ok=True)
        try:
            self.path_of(key).rename(gone)
        except FileNotFoundError:
            return
        shutil.rmtree(gone, ignore_errors=True)

    def trim(self, free_bytes: int, unused_days: float, now: float) -> list[tuple[str, CacheEntry]]:
        """Remove models, the longest unused first, until so much space is free, and return them. What died unfinished goes before them.

        A model that was asked for within ``unused_days`` stays: a run may be loading it. Nobody's use is written down but that of fillers,
        who ask for every run.

        :param now: Unix time.
        """
        self._discard_unfinished(now - DAY)
        removed: list[tuple[str, CacheEntry]] = []
        entries = self.measure().entries
        for key in sorted(entries, key=self._last_use):
            if shutil.disk_usage(self.root).free >= free_bytes or self._last_use(key) > now - unused_days * DAY:
                break
            self.discard(key)
            removed.append((key, entries[key]))
        return removed

    def _discard_unfinished(self, before: float) -> None:
        """Remove what was left in the middle and not touched since ``before``, where nobody holds its lock."""
        folders = list((self.root / "partial").iterdir()) if (self.root / "partial").is_dir() else []
        for folder in folders:
            newest = max((path.stat().st_mtime for path in (folder, *folder.rglob("*"))), default=0.0)
            if newest < before:
                with suppress(LockTimeout), self._locked(folder.name.partition(".")[0], 0.0):
                    shutil.rmtree(folder, ignore_errors=True)

    def _last_use(self, key: str) -> float:
        """Return when a model was last asked for: Unix time; of one from before uses were noted, when it was fetched."""
        for path in (self.root / "uses" / key, self.path_of(key) / ENTRY):
            with suppress(OSError):
                return path.stat().st_mtime
        return 0.0

    def _note_use(self, key: str) -> None:
        path = self.root / "uses" / key
        with suppress(OSError):  # only what is removed first hangs on it
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()

    def measure(self) -> Usage:
        """Return how full the cache is."""
        models = self.root / "models"
        keys = sorted(path.name for path in models.iterdir()) if models.is_dir() else []
        space = shutil.disk_usage(self.root)
        partial = sum(path.stat().st_size for path in (self.root / "partial").rglob("*") if path.is_file())
        return Usage({key: entry for key in keys if (entry := self.find(key)) is not None}, partial, space.free, space.total)

    def _publish(self, folder: Path, key: str) -> None:
        target = self.path_of(key)
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            folder.rename(target)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            if self.find(key) is None:  # something else lies there, which no reader takes for a model
                self.discard(key)
                folder.rename(target)
            else:
                shutil.rmtree(folder, ignore_errors=True)  # another, without a lock, was first
        _sync(target.parent)

    @contextmanager
    def _locked(self, key: str, wait_seconds: float) -> Iterator[bool]:
        """Hold the key's lock; yield whether there is such a thing here."""
        path = self.root / "locks" / key
        path.parent.mkdir(parents=True, exist_ok=True)
        deadline = time.monotonic() + wait_seconds
        with path.open("a") as file:
            pause, said = 0.05, False
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() >= deadline:
                        raise LockTimeout(f"another has fetched it for more than {wait_seconds:.0f} s") from None
                    if not said:
                        logger.info("another pod fetches it; waiting")
                        said = True
                    time.sleep(pause)
                    pause = min(2.0, pause * 1.5)
                except OSError as error:
                    if error.errno not in _NO_LOCKS:
                        raise
                    logger.warning("the cache's file system has no locks: %s", error)
                    yield False
                    return
            yield True


def build_key(endpoint: str, uri: str, commit: str) -> str:
    """Return the key of a hub's repository at a commit."""
    return hashlib.sha256(f"{endpoint.rstrip('/')}\n{uri}\n{commit}".encode()).hexdigest()[:40]


def _describe_files(folder: Path) -> dict[str, CachedFile]:
    paths = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file() and path.name != ENTRY}
    for path in paths.values():
        _sync(path)
    digests = digest_files(paths)
    return {name: CachedFile(size=path.stat().st_size, digest=digests[name]) for name, path in sorted(paths.items())}


def _compare(folder: Path, entry: CacheEntry) -> list[str]:
    """Return the names of the files that are not as they were published."""
    digests = digest_files({name: folder / name for name in entry.files})
    return [name for name, file in entry.files.items() if digests[name] != file.digest]


def _write_synced(path: Path, content: bytes) -> None:
    with path.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
