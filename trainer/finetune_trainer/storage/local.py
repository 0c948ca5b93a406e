"""A store in a local folder or on a mounted volume."""

import contextlib
import os
import uuid
from pathlib import Path

from finetune_trainer.storage.faults import Role
from finetune_trainer.storage.retry import RetryPolicy
from finetune_trainer.storage.store import PART_SUFFIX, Advance, Store, StoredFile

_BLOCK = 8 * 2**20


class LocalStore(Store):
    """Files below a folder. A write goes to a ``.part`` file, is flushed to the disk, then renamed."""

    def __init__(self, uri: str, role: Role, root: Path, policy: RetryPolicy) -> None:
        super().__init__(uri, role, policy)
        self.root = root

    def local_path(self, path: str) -> Path | None:
        """Return the file itself: what lies on a volume is read in place."""
        return self._at(path)

    def _at(self, path: str) -> Path:
        return self.root / path if path else self.root

    def _list(self, folder: str) -> list[StoredFile]:
        start = self._at(folder)
        if not start.exists():
            return []
        found: list[StoredFile] = []
        for parent, _, names in os.walk(start, onerror=_raise):
            for name in names:
                file = Path(parent, name)
                if not name.endswith(PART_SUFFIX) and file.is_file():
                    found.append(StoredFile(file.relative_to(self.root).as_posix(), file.stat().st_size))
        return found

    def _find(self, path: str) -> StoredFile | None:
        file = self._at(path)
        return StoredFile(path, file.stat().st_size) if file.is_file() else None

    def _read(self, path: str) -> bytes:
        return self._at(path).read_bytes()

    def _read_range(self, path: str, start: int, end: int) -> bytes:
        with self._at(path).open("rb") as stream:
            stream.seek(start)
            return stream.read(end - start)

    def _download(self, path: str, part: Path, advance: Advance) -> int | None:
        with self._at(path).open("rb") as source, part.open("wb") as target:
            size = os.fstat(source.fileno()).st_size
            while block := source.read(_BLOCK):
                target.write(block)
                advance(len(block))
        return size

    def _upload(self, source: Path, path: str, advance: Advance) -> None:
        target = self._at(path)
        part = self._part_of(target)
        try:
            with source.open("rb") as reader, part.open("wb") as writer:
                while block := reader.read(_BLOCK):
                    writer.write(block)
                    advance(len(block))
                _flush(writer.fileno())
            _rename(part, target)
        finally:
            part.unlink(missing_ok=True)

    def _write(self, content: bytes, path: str) -> None:
        target = self._at(path)
        part = self._part_of(target)
        try:
            with part.open("wb") as writer:
                writer.write(content)
                writer.flush()
                _flush(writer.fileno())
            _rename(part, target)
        finally:
            part.unlink(missing_ok=True)

    def _part_of(self, target: Path) -> Path:
        target.parent.mkdir(parents=True, exist_ok=True)
        return target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}{PART_SUFFIX}")

    def _clear_leftovers(self, folder: str) -> None:
        for part in self._at(folder).rglob(f".*{PART_SUFFIX}"):
            part.unlink(missing_ok=True)
            self._prune(part)

    def _delete(self, path: str) -> None:
        file = self._at(path)
        file.unlink(missing_ok=True)
        self._prune(file)

    def _prune(self, file: Path) -> None:
        for parent in file.parents:  # a folder goes with its last file, as in an object store
            if parent == self.root or self.root not in parent.parents:
                return
            with contextlib.suppress(OSError):
                parent.rmdir()


def _raise(error: OSError) -> None:
    raise error


def _flush(descriptor: int) -> None:
    os.fsync(descriptor)


def _rename(part: Path, target: Path) -> None:
    part.replace(target)
    folder = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # without it, the name may be lost with the machine's power
    finally:
        os.close(folder)
