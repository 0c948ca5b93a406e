"""A folder of files somewhere: the one interface that the trainer reads and writes through."""

import hashlib
import logging
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TypeVar

from finetune_trainer.errors import StorageFailed, TrainerError
from finetune_trainer.storage.faults import Role, SizeMismatch, build_error
from finetune_trainer.storage.retry import Deadline, RetryPolicy, call_with_retry

T = TypeVar("T")
logger = logging.getLogger(__name__)
Advance = Callable[[int], None]
"""Told the number of bytes moved since the last call. What it raises ends the transfer."""
_DIGEST_BLOCK = 16 * 2**20
PART_SUFFIX = ".part"
"""Ends the name of a file that is not whole yet."""


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file in a store."""

    path: str
    """Path below the store's URI, with forward slashes."""
    size: int
    """Size in bytes."""


class Store(ABC):
    """The files under ``uri``. Paths are relative to it; ``""`` is the file that ``uri`` itself names.

    Every method retries passing faults by ``policy`` and raises :class:`SourceUnavailable` or :class:`StorageFailed`, naming the URI.
    Methods may be called from several threads at once. Subclasses do the work in the underscored methods, once, and raise what their
    client raises.
    """

    def __init__(self, uri: str, role: Role, policy: RetryPolicy) -> None:
        self.uri = uri.rstrip("/")
        self.role: Role = role
        self.policy = policy

    def list_files(self, folder: str = "") -> list[StoredFile]:
        """Return every file below ``folder``, at any depth, sorted by path; none where the folder doesn't exist."""
        return self._try("listing", folder, lambda _: sorted(self._list(folder), key=lambda file: file.path))

    def find(self, path: str) -> StoredFile | None:
        """Return the file at ``path``, or None."""
        return self._try("looking at", path, lambda _: self._find(path))

    def read(self, path: str, max_bytes: int) -> bytes | None:
        """Return the content of ``path``, or None where there is no such file.

        :raises StorageFailed: it is larger than ``max_bytes``.
        """

        def read(_: Deadline) -> bytes | None:
            file = self._find(path)
            if file is None:
                return None
            if file.size > max_bytes:
                raise StorageFailed(f"{self.locate(path)} has {file.size} bytes; at most {max_bytes} are expected there")
            return self._read(path)

        return self._try("reading", path, read)

    def digest(self, path: str, size: int) -> str:
        """Return the SHA-256 of ``path``, which has ``size`` bytes, as ``sha256:…``. Read in blocks: memory stays small."""
        digest = hashlib.sha256()
        for start in range(0, size, _DIGEST_BLOCK):
            end = min(start + _DIGEST_BLOCK, size)
            digest.update(self._try("reading", path, lambda _, start=start, end=end: self._read_range(path, start, end)))  # type: ignore[misc]
        return f"sha256:{digest.hexdigest()}"

    def download(self, path: str, target: Path, size: int | None = None, advance: Advance | None = None) -> None:
        """Copy ``path`` to the local file ``target``: under a temporary name first, renamed when whole.

        Killed at any moment, this leaves at most ``target`` + ``.part``, which the next call overwrites; ``target`` is whole or absent.

        :param size: size in bytes, where it is known; another number of bytes is a passing fault, and is tried again.
        """
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(target.name + PART_SUFFIX)

        def copy(deadline: Deadline) -> None:
            announced = self._download(path, part, _under(deadline, advance))
            expected = announced if size is None else size
            actual = part.stat().st_size
            if expected is not None and actual != expected:
                raise SizeMismatch(f"got {actual} of {expected} bytes")
            part.replace(target)

        try:
            self._try("downloading", path, copy)
        finally:
            part.unlink(missing_ok=True)

    def upload(self, source: Path, path: str, advance: Advance | None = None) -> None:
        """Copy the local file ``source`` to ``path``, which is replaced in one step: readers see the old file or the new one.

        Killed at any moment, this leaves ``path`` as it was or whole; beside it at most a ``.part`` file (volumes, overwritten by the
        next try) or parts of an unfinished multipart upload (object stores, invisible; a lifecycle rule of the bucket clears them).
        """
        self._try("uploading", path, lambda deadline: self._upload(source, path, _under(deadline, advance)))

    def write(self, content: bytes, path: str) -> None:
        """Write ``content`` to ``path``, in one step as :meth:`upload` does."""
        self._try("writing", path, lambda _: self._write(content, path))

    def delete(self, paths: Iterable[str]) -> None:
        """Delete the files at ``paths``; those that don't exist are no fault. Killed midway, the rest stays."""
        for path in paths:
            self._try("deleting", path, lambda _, path=path: self._delete(path))  # type: ignore[misc]

    def delete_folder(self, folder: str) -> None:
        """Delete every file below ``folder``, and what uploads killed there have left. Killed midway, the rest stays; call again."""
        self.delete(file.path for file in self.list_files(folder))
        self.clear_leftovers(folder)

    def clear_leftovers(self, folder: str) -> None:
        """Remove what uploads that were killed have left below ``folder``: ``.part`` files, parts of unfinished multipart uploads.

        No upload to ``folder`` may be under way. Nothing hangs on it, so that a fault is logged and goes no further.
        """
        try:
            self._try("clearing", folder, lambda _: self._clear_leftovers(folder))
        except TrainerError as error:
            logger.warning("leftovers stay: %s", error)

    def locate(self, path: str) -> str:
        """Return the URI of ``path``."""
        return f"{self.uri}/{path}" if path else self.uri

    def local_path(self, path: str) -> Path | None:
        """Return where ``path`` lies in this machine's own file system, or None where it lies elsewhere."""
        del path
        return None

    def _try(self, doing: str, path: str, operation: Callable[[Deadline], T]) -> T:
        deadline = self.policy.deadline()
        try:
            return call_with_retry(lambda: operation(deadline), f"{doing} {self.locate(path)}", self.policy, deadline)
        except Exception as error:
            fault = build_error(error, self.locate(path), self.role, doing)
            if fault is error:
                raise
            raise fault from error

    @abstractmethod
    def _list(self, folder: str) -> list[StoredFile]: ...
    @abstractmethod
    def _find(self, path: str) -> StoredFile | None: ...
    @abstractmethod
    def _read(self, path: str) -> bytes: ...
    @abstractmethod
    def _read_range(self, path: str, start: int, end: int) -> bytes: ...
    @abstractmethod
    def _download(self, path: str, part: Path, advance: Advance) -> int | None:
        """Copy ``path`` to ``part`` and return the size that the store announced, where it did."""

    @abstractmethod
    def _upload(self, source: Path, path: str, advance: Advance) -> None: ...
    @abstractmethod
    def _write(self, content: bytes, path: str) -> None: ...
    @abstractmethod
    def _delete(self, path: str) -> None: ...
    @abstractmethod
    def _clear_leftovers(self, folder: str) -> None: ...


def _under(deadline: Deadline, advance: Advance | None) -> Advance:
    def checked(moved: int) -> None:
        deadline.check()
        if advance is not None:
            advance(moved)

    return checked


def check_relative(path: str) -> str:
    """Return ``path`` if it stays below the folder that it is relative to.

    :raises StorageFailed: it is absolute, or climbs out. A listing is input from outside.
    """
    parts = PurePosixPath(path).parts
    if not parts or path.startswith("/") or ".." in parts or "\\" in path or "\0" in path:
        raise StorageFailed(f"the store lists a file named {path!r}, which leaves its folder; rename it")
    return path


def check_free_space(folder: Path, needed: int, what: str) -> None:
    """Check that ``needed`` bytes fit into the file system of ``folder``, with 64 MiB to spare.

    :raises StorageFailed: they don't.
    """
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if needed + 64 * 2**20 > free:
        raise StorageFailed(
            f"{what} needs {needed / 2**30:.2f} GiB, but {folder} has {free / 2**30:.2f} GiB left; "
            "raise resources.ephemeralStorage, or use a node with a larger disk"
        )
