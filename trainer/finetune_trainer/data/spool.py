"""Rows that lie in a file, so that memory does not grow with their number."""

import json
import os
import tempfile
import weakref
from array import array
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, overload

import numpy as np
from numpy.typing import NDArray

from finetune_trainer.data.faults import Row, SourceRow

_BUFFER_BYTES: Final = 2**20
_ENCODER: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))


class _File:
    """A file without a name: it goes with the last who holds this, and with the process, however that ends.

    :param folder: folder on the file's disk, which is made; None takes the system's own for temporary files.
    """

    def __init__(self, folder: Path | None) -> None:
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            self.descriptor = os.dup(file.fileno())
        weakref.finalize(self, os.close, self.descriptor)


class RowSpool:
    """Takes rows one after the other.

    :param folder: folder on the disk that takes them; None takes the system's own for temporary files.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._file = _File(folder)
        self._ends = array("Q", [0])
        self._buffer = bytearray()

    def add(self, row: SourceRow) -> None:
        """Append ``row``; its values are those of JSON.

        :raises OSError: the disk is full.
        """
        content = _ENCODER.encode([row.where, row.value]).encode("utf-8", "surrogatepass")
        self._buffer += content
        self._ends.append(self._ends[-1] + len(content))
        if len(self._buffer) >= _BUFFER_BYTES:
            self._write()

    def finish(self) -> "SpooledRows":
        """Return all rows, once the last has been added.

        :raises OSError: the disk is full.
        """
        self._write()
        return SpooledRows(self._file, np.array(self._ends, dtype=np.int64), None)

    def _write(self) -> None:
        written = 0
        while written < len(self._buffer):
            written += os.write(self._file.descriptor, self._buffer[written:] if written else self._buffer)
        self._buffer = bytearray()


class SpooledRows(Sequence[SourceRow]):
    """Rows of a :class:`RowSpool`, read from its file whenever they are asked for. Several threads may read at once."""

    def __init__(self, file: _File, ends: NDArray[np.int64], numbers: NDArray[np.int64] | None) -> None:
        self._file = file
        self._ends = ends
        self._numbers = numbers

    @classmethod
    def build(cls, rows: Iterable[SourceRow]) -> "SpooledRows":
        """Write ``rows`` to a temporary file."""
        spool = RowSpool()
        for row in rows:
            spool.add(row)
        return spool.finish()

    def take(self, numbers: NDArray[np.int64]) -> "SpooledRows":
        """Return the rows of these ``numbers``, in their order, of the same file."""
        return SpooledRows(self._file, self._ends, numbers if self._numbers is None else self._numbers[numbers])

    def __len__(self) -> int:
        return len(self._ends) - 1 if self._numbers is None else len(self._numbers)

    @overload
    def __getitem__(self, index: int) -> SourceRow: ...
    @overload
    def __getitem__(self, index: slice) -> list[SourceRow]: ...
    def __getitem__(self, index: int | slice) -> SourceRow | list[SourceRow]:
        if isinstance(index, slice):
            return [self._read(number) for number in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        return self._read(index % len(self))

    def __iter__(self) -> Iterator[SourceRow]:
        return map(self._read, range(len(self)))

    def _read(self, index: int) -> SourceRow:
        number = index if self._numbers is None else int(self._numbers[index])
        begin, end = self._ends[number : number + 2].tolist()
        content = os.pread(self._file.descriptor, end - begin, begin)
        where, value = json.loads(content.decode("utf-8", "surrogatepass"))
        return SourceRow(value, where)


class RowValues(Sequence[Row]):
    """The values of several runs of rows, one after the other."""

    def __init__(self, runs: Sequence[Sequence[SourceRow]]) -> None:
        self._runs = runs

    def __len__(self) -> int:
        return sum(map(len, self._runs))

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> list[Row]: ...
    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        index %= len(self)
        for rows in self._runs:
            if index < len(rows):
                return rows[index].value
            index -= len(rows)
        raise IndexError(index)

    def __iter__(self) -> Iterator[Row]:
        return (row.value for rows in self._runs for row in rows)
