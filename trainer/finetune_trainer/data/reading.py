"""Reading rows from files, one after the other: JSON Lines, JSON, CSV and Parquet, each also gzipped."""

import csv
import gzip
import io
import json
import sys
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any, Final

from finetune_trainer.data.faults import MAX_FAULTS, Faults, SourceRow
from finetune_trainer.errors import DataInvalid
from finetune_trainer.storage.digest import combine_digests, digest_files

SUFFIXES: Final = (".jsonl", ".ndjson", ".json", ".csv", ".parquet")
GZIP: Final = ".gz"
_BOM = b"\xef\xbb\xbf"
_WRAPPERS = ("data", "rows", "train", "examples")
_BUFFER_BYTES: Final = 2**20
_PARQUET_ROWS: Final = 1024
"""Rows that are in memory at a time."""
_HOPELESS: Final = 50 * MAX_FAULTS
"""Malformed rows after which no other file is read."""


def data_suffix(name: str) -> str | None:
    """Return the suffix that says how the file ``name`` is to be read, or None where it is no data file."""
    lower = name.lower().removesuffix(GZIP)
    return next((suffix for suffix in SUFFIXES if lower.endswith(suffix)), None)


def load_rows(files: Sequence[Path], root: Path | None = None) -> list[SourceRow]:
    """Return all rows of ``files``, which are few.

    :raises DataInvalid: see :func:`read_rows`; or up to 20 malformed rows, with file and line, all at once.
    """
    faults = Faults()
    rows = list(read_rows(files, root, faults))
    faults.raise_if_any("malformed rows")
    return rows


def read_rows(files: Sequence[Path], root: Path | None, faults: Faults, *, tolerant: bool = False) -> Iterator[SourceRow]:
    """Read ``files`` in the order of their names, row by row: memory holds a few rows at a time, but all of a ``.json`` file (unless it has
    JSON Lines in it) and of a gzipped Parquet file.

    :param root: folder that names in messages are relative to.
    :param faults: takes the malformed rows.
    :param tolerant: read on, however many of them there are.
    :raises DataInvalid: a file can't be read at all, or there are no rows.
    """
    named = _name_files(files, root)
    found = False
    for name in sorted(named):
        for row in _read_file(named[name], name, faults):
            found = True
            yield row
        if not tolerant and faults.count > _HOPELESS:
            break  # the file is no such thing as its name says: reading on would only cost time
    if not found and not faults.count:
        raise DataInvalid(f"the dataset has no rows ({', '.join(sorted(named)[:5])})")


def compute_digest(files: Sequence[Path], root: Path | None = None) -> str:
    """Return the SHA-256 of ``files`` as they were read: of the file where there is one, else as ``combine_digests`` says."""
    return combine_digests(digest_files(_name_files(files, root)))


def _name_files(files: Sequence[Path], root: Path | None) -> dict[str, Path]:
    if not files:
        raise DataInvalid(f"the dataset has no files; it needs {', '.join(SUFFIXES)} files (or these gzipped)")
    return {file.relative_to(root).as_posix() if root else file.name: file for file in files}


def _read_file(file: Path, name: str, faults: Faults) -> Iterator[SourceRow]:
    suffix = data_suffix(name)
    try:
        if suffix == ".parquet":
            yield from _read_parquet(file, name)
        elif suffix in (".jsonl", ".ndjson"):
            with _open(file) as stream:
                yield from _read_jsonl(stream, name, faults)
        elif suffix == ".json":
            yield from _read_json(file, name, faults)
        elif suffix == ".csv":
            with _open(file) as stream:
                yield from _read_csv(stream, name, faults)
        else:
            raise DataInvalid(f"{name}: not a data file; it must end in one of {', '.join(SUFFIXES)} (or these with {GZIP})")
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataInvalid(f"{name}: damaged gzip file ({error}); compress and upload it anew") from None
    except UnicodeDecodeError:
        raise DataInvalid(_find_undecodable(file, name)) from None


@contextmanager
def _open(file: Path) -> Iterator[IO[bytes]]:
    """Open ``file`` for reading, unpacked, after its byte order mark."""
    with ExitStack() as stack:
        stream: IO[bytes] = stack.enter_context(file.open("rb", buffering=_BUFFER_BYTES))
        packed = stream.read(2) == b"\x1f\x8b" or file.name.lower().endswith(GZIP)  # some servers serve a .jsonl gzipped
        stream.seek(0)
        if packed:
            unpacked = stack.enter_context(gzip.GzipFile(fileobj=stream))
            stream = stack.enter_context(io.BufferedReader(unpacked, _BUFFER_BYTES))
        if stream.read(len(_BOM)) != _BOM:
            stream.seek(0)
        yield stream


def _find_undecodable(file: Path, name: str) -> str:
    """Return where ``file`` is not UTF-8, in words."""
    before, head = 0, b""
    with _open(file) as stream:
        for number, line in enumerate(stream, start=1):
            head = head or line[:2]
            try:
                line.decode("utf-8")
            except UnicodeDecodeError as error:
                if head == b"PK":
                    return f"{name} is a ZIP archive by its content; unpack it, or compress the file with gzip instead"
                utf_16 = head in (b"\xff\xfe", b"\xfe\xff")
                hint = "it seems to be UTF-16" if utf_16 else "it seems to be in another encoding"
                place = f"{name}:{number}: byte {before + error.start} (0x{line[error.start]:02x})"
                return f"{place} is not UTF-8; {hint}. Save the file as UTF-8"
            before += len(line)
    return f"{name} is not UTF-8; save the file as UTF-8"


def _read_jsonl(stream: IO[bytes], name: str, faults: Faults) -> Iterator[SourceRow]:
    # split on \n alone: str.splitlines would also split inside texts, on U+2028 and the like
    for number, content in enumerate(stream, start=1):
        line = content.removesuffix(b"\n").decode("utf-8")
        if not line.strip():
            continue
        try:
            value = _parse_json(line)
        except ValueError as error:
            faults.add(f"{name}:{number}", f"not JSON: {error}")
            continue
        if isinstance(value, dict):
            yield SourceRow(value, f"{name}:{number}")
        else:
            faults.add(f"{name}:{number}", "not a JSON object; each line must be one {…}")


def _read_json(file: Path, name: str, faults: Faults) -> Iterator[SourceRow]:
    with _open(file) as stream:
        if _has_json_lines(stream):
            with _open(file) as lines:
                yield from _read_jsonl(lines, name, faults)
            return
    with _open(file) as stream:
        text = stream.read().decode("utf-8")
    try:
        value = _parse_json(text)
    except ValueError as error:
        if text.lstrip().startswith("{") and "Extra data" in str(error):
            with _open(file) as lines:
                yield from _read_jsonl(lines, name, faults)
            return
        faults.add(name, f"not JSON: {error}")
        return
    if isinstance(value, dict):
        lists = [key for key in _WRAPPERS if isinstance(value.get(key), list)]
        if len(lists) != 1:
            faults.add(name, f'a JSON object, but not {{"data": [rows]}}; its keys are {", ".join(sorted(map(str, value))[:10])}')
            return
        value = value[lists[0]]
    if not isinstance(value, list):
        faults.add(name, 'neither a list of rows nor {"data": [rows]}')
        return
    for number, row in enumerate(value, start=1):
        if isinstance(row, dict):
            yield SourceRow(row, f"{name}, row {number}")
        else:
            faults.add(f"{name}, row {number}", "not a JSON object")


def _has_json_lines(stream: IO[bytes]) -> bool:
    """Tell whether what looks like one JSON document is JSON Lines, as many datasets by the name .json are: two lines that begin with an
    object, the first of them whole.
    """
    objects = 0
    while objects < 2 and (line := stream.readline()):
        text = line.decode("utf-8").strip()
        if not text:
            continue
        if not text.startswith("{"):
            return False
        if not objects:
            try:
                _parse_json(text)
            except ValueError:
                return False
        objects += 1
    return objects == 2


def _parse_json(text: str) -> Any:  # noqa: ANN401
    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is not JSON")

    try:
        return json.loads(text, parse_constant=refuse)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _read_csv(stream: IO[bytes], name: str, faults: Faults) -> Iterator[SourceRow]:
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    text = io.TextIOWrapper(stream, encoding="utf-8", newline="")
    reader = csv.reader(text, strict=True)
    try:
        header = next(reader, None)
        if header is None:
            return
        names = [column.strip() for column in header]
        if len(set(names)) < len(names) or not all(names):
            faults.add(f"{name}:1", f"the header has empty or repeated names: {', '.join(map(repr, names))}")
            return
        line = reader.line_num
        for values in reader:
            where, line = f"{name}:{line + 1}", reader.line_num
            if not values:
                continue
            if len(values) != len(names):
                faults.add(where, f"{len(values)} fields under {len(names)} columns")
                continue
            yield SourceRow({key: _parse_cell(key, value) for key, value in zip(names, values, strict=True)}, where)
    except csv.Error as error:
        faults.add(f"{name}:{reader.line_num}", f"not CSV: {error}")
    finally:
        text.detach()  # whoever opened the stream closes it


def _parse_cell(column: str, value: str) -> Any:  # noqa: ANN401
    """Return the value of a cell: lists of messages are written as JSON in a CSV."""
    if column in ("messages", "conversations", "conversation") or value.startswith('[{"role"'):
        try:
            return _parse_json(value)
        except ValueError:
            return value
    return value


def _read_parquet(file: Path, name: str) -> Iterator[SourceRow]:
    import pyarrow as pa  # noqa: PLC0415  a second to import; most datasets are JSON
    import pyarrow.parquet as pq  # noqa: PLC0415

    source: Any = file
    if name.lower().endswith(GZIP):
        source = pa.BufferReader(gzip.decompress(file.read_bytes()))
    try:
        with pq.ParquetFile(source, buffer_size=_BUFFER_BYTES, pre_buffer=False) as parquet:
            number = 0
            for batch in parquet.iter_batches(batch_size=_PARQUET_ROWS):
                for row in batch.to_pylist():
                    number += 1
                    yield SourceRow(row, f"{name}, row {number}")
    except (pa.ArrowException, OSError) as error:
        raise DataInvalid(f"{name}: not a Parquet file that can be read: {error}") from None
