"""Reading rows from files: JSON Lines, JSON, CSV and Parquet, each also gzipped."""

import csv
import gzip
import io
import json
import sys
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from finetune_trainer.data.faults import MAX_FAULTS, Faults, SourceRow
from finetune_trainer.errors import DataInvalid
from finetune_trainer.storage.digest import combine_digests, digest_files

SUFFIXES: Final = (".jsonl", ".ndjson", ".json", ".csv", ".parquet")
GZIP: Final = ".gz"
_BOM = b"\xef\xbb\xbf"
_WRAPPERS = ("data", "rows", "train", "examples")


@dataclass(frozen=True, slots=True)
class LoadedRows:
    """All rows of a dataset."""

    rows: list[SourceRow]
    digest: str
    """SHA-256 of the files as they were read: of the file where there is one, else as ``combine_digests`` says."""


def data_suffix(name: str) -> str | None:
    """Return the suffix that says how the file ``name`` is to be read, or None where it is no data file."""
    lower = name.lower().removesuffix(GZIP)
    return next((suffix for suffix in SUFFIXES if lower.endswith(suffix)), None)


def load_rows(files: Sequence[Path], root: Path | None = None, tolerated: Faults | None = None) -> LoadedRows:
    """Read ``files`` in the order of their names.

    :param root: folder that names in messages are relative to.
    :param tolerated: takes the malformed rows; without it they are an error.
    :raises DataInvalid: up to 20 malformed rows, with file and line, all at once; or a file that can't be read at all.
    """
    if not files:
        raise DataInvalid(f"the dataset has no files; it needs {', '.join(SUFFIXES)} files (or these gzipped)")
    named = {file.relative_to(root).as_posix() if root else file.name: file for file in files}
    faults = Faults() if tolerated is None else tolerated
    rows: list[SourceRow] = []
    for name in sorted(named):
        rows.extend(_read_file(named[name], name, faults))
        if tolerated is None and faults.count > 50 * MAX_FAULTS:
            break  # the file is no such thing as its name says: reading on would only cost time
    if tolerated is None:
        faults.raise_if_any("malformed rows")
    elif not rows:
        tolerated.raise_if_above(0.0, tolerated.count)
    if not rows:
        raise DataInvalid(f"the dataset has no rows ({', '.join(sorted(named)[:5])})")
    return LoadedRows(rows, combine_digests(digest_files(named)))


def _read_file(file: Path, name: str, faults: Faults) -> Iterator[SourceRow]:
    suffix = data_suffix(name)
    try:
        if suffix == ".parquet":
            yield from _read_parquet(file, name)
        elif suffix in (".jsonl", ".ndjson"):
            yield from _read_jsonl(_read_content(file), name, faults)
        elif suffix == ".json":
            yield from _read_json(_read_content(file), name, faults)
        elif suffix == ".csv":
            yield from _read_csv(_read_content(file), name, faults)
        else:
            raise DataInvalid(f"{name}: not a data file; it must end in one of {', '.join(SUFFIXES)} (or these with {GZIP})")
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataInvalid(f"{name}: damaged gzip file ({error}); compress and upload it anew") from None


def _read_content(file: Path) -> bytes:
    content = file.read_bytes()
    if file.name.lower().endswith(GZIP) or content[:2] == b"\x1f\x8b":  # some servers serve a .jsonl gzipped
        content = gzip.decompress(content)
    return content.removeprefix(_BOM)


def _decode_error(name: str, content: bytes, error: UnicodeDecodeError) -> str:
    line = content.count(b"\n", 0, error.start) + 1
    hint = "it seems to be UTF-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "it seems to be in another encoding"
    if content[:2] == b"PK":
        return f"{name} is a ZIP archive by its content; unpack it, or compress the file with gzip instead"
    return f"{name}:{line}: byte {error.start} (0x{content[error.start]:02x}) is not UTF-8; {hint}. Save the file as UTF-8"


def _decode(content: bytes, name: str) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataInvalid(_decode_error(name, content, error)) from None


def _read_jsonl(content: bytes, name: str, faults: Faults) -> Iterator[SourceRow]:
    # split on \n alone: str.splitlines would also split inside texts, on U+2028 and the like
    for number, line in enumerate(_decode(content, name).split("\n"), start=1):
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


def _read_json(content: bytes, name: str, faults: Faults) -> Iterator[SourceRow]:
    text = _decode(content, name)
    try:
        value = _parse_json(text)
    except ValueError as error:
        if text.lstrip().startswith("{") and "Extra data" in str(error):  # JSON Lines under the name .json, as many datasets are
            yield from _read_jsonl(content, name, faults)
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


def _parse_json(text: str) -> Any:  # noqa: ANN401
    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is not JSON")

    try:
        return json.loads(text, parse_constant=refuse)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _read_csv(content: bytes, name: str, faults: Faults) -> Iterator[SourceRow]:
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    reader = csv.reader(io.StringIO(_decode(content, name), newline=""), strict=True)
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
        with pq.ParquetFile(source) as parquet:
            number = 0
            for batch in parquet.iter_batches():
                for row in batch.to_pylist():
                    number += 1
                    yield SourceRow(row, f"{name}, row {number}")
    except (pa.ArrowException, OSError) as error:
        raise DataInvalid(f"{name}: not a Parquet file that can be read: {error}") from None
