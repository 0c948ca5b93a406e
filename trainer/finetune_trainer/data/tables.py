"""Tokenised rows as files in Arrow's own format, mapped into memory: the system keeps of them what is used and there is room for."""

from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

TRAIN_FILE: Final = "train.arrow"
EVAL_FILE: Final = "eval.arrow"
Columns = dict[str, list[Any]]
_BATCH_BYTES: Final = 8 * 2**20


class TableWriter:
    """Appends rows to a file; at most some MiB of them are in memory.

    :raises OSError: the disk is full, in any call.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._sink: Any = None
        self._writer: Any = None
        self._held: list[Any] = []
        self._bytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if error is None:
                self._flush()
        finally:
            if self._writer is not None:
                self._writer.close()
                self._sink.close()

    def append(self, columns: Columns) -> None:
        """Append rows, given by columns of token ids, of good and bad (`label`), or of prompts and the answers to compare with (`prompt`,
        `answer`). All rows of a file have the same columns.
        """
        import pyarrow as pa  # noqa: PLC0415  takes a second; the caller has loaded it by now

        if not any(columns.values()):
            return
        batch = pa.record_batch({name: pa.array(values, _choose_type(name, values)) for name, values in columns.items()})
        self._held.append(batch)
        self._bytes += batch.nbytes
        if self._bytes >= _BATCH_BYTES:
            self._flush()

    def _flush(self) -> None:
        import pyarrow as pa  # noqa: PLC0415  likewise

        if not self._held:
            return
        table = pa.Table.from_batches(self._held).combine_chunks()
        if self._writer is None:
            self._sink = pa.OSFile(str(self._file), "wb")
            self._writer = pa.ipc.new_stream(self._sink, table.schema)
        self._writer.write_table(table)
        self._held, self._bytes = [], 0


def _choose_type(name: str, values: list[Any]) -> Any:  # noqa: ANN401
    import pyarrow as pa  # noqa: PLC0415  likewise

    if name == "label":
        return pa.bool_()
    if name == "answer":
        return pa.string()
    if name == "prompt":
        messages = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
        return messages if isinstance(values[0], list) else pa.string()
    return pa.list_(pa.int32())


def map_table(file: Path, fingerprint: str) -> Any:  # noqa: ANN401  datasets.Dataset, which takes seconds to import
    """Return the rows of ``file`` as a ``datasets.Dataset``. What is made of it lies beside it.

    :param fingerprint: tells it from every other; processes of a pod that map the same file give the same.
    :raises ValueError: it is no such file.
    """
    from datasets import Dataset  # noqa: PLC0415  loaded by now
    from datasets.table import MemoryMappedTable  # noqa: PLC0415

    return Dataset(MemoryMappedTable.from_file(str(file)), fingerprint=fingerprint)
