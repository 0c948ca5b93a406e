"""Data read, held out, repeated and compared whole, in memory: what the trainer, which does it bit by bit, is held to."""

import csv
import gzip
import hashlib
import io
import json
import zlib
from itertools import groupby
from typing import Any

Row = dict[str, Any]
Read = tuple[list[tuple[Row, str]], list[str]]
"""Rows with their places, and faults."""


def read_whole(name: str, content: bytes) -> Read | str:
    """Return what is in a file, or, where none of it can be read, the beginning of the words to be said."""
    if name.endswith(".gz") or content[:2] == b"\x1f\x8b":
        try:
            content = gzip.decompress(content)
        except (EOFError, zlib.error, gzip.BadGzipFile):
            return f"{name}: damaged gzip file"
    content = content.removeprefix(b"\xef\xbb\xbf")
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        if content[:2] == b"PK":
            return f"{name} is a ZIP archive"
        line = content.count(b"\n", 0, error.start) + 1
        return f"{name}:{line}: byte {error.start} (0x{content[error.start]:02x}) is not UTF-8"
    suffix = name.removesuffix(".gz").rsplit(".", 1)[1]
    return {"jsonl": _read_jsonl, "json": _read_json, "csv": _read_csv}[suffix](name, text)


def _read_jsonl(name: str, text: str) -> Read:
    rows, faults = [], []
    for number, line in enumerate(text.split("\n"), start=1):
        where = f"{name}:{number}"
        if not line.strip():
            continue
        try:
            value = _parse(line)
        except ValueError as error:
            faults.append(f"{where}: not JSON: {error}")
            continue
        if isinstance(value, dict):
            rows.append((value, where))
        else:
            faults.append(f"{where}: not a JSON object; each line must be one {{…}}")
    return rows, faults


def _read_json(name: str, text: str) -> Read:
    try:
        value = _parse(text)
    except ValueError as error:
        if text.lstrip().startswith("{") and "Extra data" in str(error):
            return _read_jsonl(name, text)
        return [], [f"{name}: not JSON: {error}"]
    if isinstance(value, dict) and isinstance(value.get("data"), list):
        value = value["data"]
    if not isinstance(value, list):
        return [], [f"{name}: {'a JSON object' if isinstance(value, dict) else 'neither'}"]
    rows = [(row, f"{name}, row {number}") for number, row in enumerate(value, start=1) if isinstance(row, dict)]
    return rows, [f"{name}, row {number}: not a JSON object" for number, row in enumerate(value, start=1) if not isinstance(row, dict)]


def _read_csv(name: str, text: str) -> Read:
    rows: list[tuple[Row, str]] = []
    faults: list[str] = []
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        names = [column.strip() for column in next(reader, [])]
        if not names and not reader.line_num:
            return [], []
        if len(set(names)) < len(names) or not all(names):
            return [], [f"{name}:1: the header"]
        line = reader.line_num
        for values in reader:
            where, line = f"{name}:{line + 1}", reader.line_num
            if values and len(values) != len(names):
                faults.append(f"{where}: {len(values)} fields under {len(names)} columns")
            elif values:
                rows.append((dict(zip(names, values, strict=True)), where))
    except csv.Error as error:
        faults.append(f"{name}:{reader.line_num}: not CSV: {error}")
    return rows, faults


def _parse(text: str) -> Any:
    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is not JSON")

    return json.loads(text, parse_constant=refuse)


def _rank(row: Row, seed: int) -> bytes:
    content = json.dumps(row, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(f"{seed}\n{content}".encode()).digest()


def hold_out(rows: list[Row], fraction: float, seed: int) -> set[int]:
    """Return the numbers of the rows held out."""
    if fraction <= 0 or len(rows) < 2:
        return set()
    ranked = sorted((_rank(row, seed), number) for number, row in enumerate(rows))
    groups = [[number for _, number in group] for _, group in groupby(ranked, key=lambda item: item[0])]
    if len(groups) < 2:
        return set()
    wanted = min(max(1, round(len(rows) * fraction)), len(rows) - 1)
    held: set[int] = set()
    for group in groups:
        if len(held) + len(group) <= wanted:
            held.update(group)
    return held or set(min(groups, key=len))


def repeat(rows: list[Row], weight: float, seed: int) -> list[int]:
    """Return the numbers of the rows, each as often as it is taken."""
    numbers = list(range(len(rows))) * int(weight)
    extra = round((weight - int(weight)) * len(rows))
    if not numbers and not extra and rows:
        extra = 1
    return numbers + sorted(sorted(range(len(rows)), key=lambda number: (_rank(rows[number], seed), number))[:extra])


def leave_out_equal(rows: list[Row], seen: list[Row]) -> list[Row]:
    """Return those of ``rows`` that are equal to no earlier one and to none of ``seen``."""
    known, left = [_rank(row, 0) for row in seen], []
    for row in rows:
        if (rank := _rank(row, 0)) not in known:
            left.append(row)
            known.append(rank)
    return left
