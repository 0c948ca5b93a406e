"""Reading rows from files."""

import gzip
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from finetune_trainer.data.reading import compute_digest, load_rows
from finetune_trainer.errors import DataInvalid
from tests.support.quiet_imports import import_quietly

ROWS: list[dict[str, Any]] = [{"prompt": "a\u2028b", "completion": "ä 🙂\r\nx"}, {"prompt": "c", "completion": "d"}]


def values(*files: Path) -> list[dict[str, Any]]:
    return [row.value for row in load_rows(files)]


def write_parquet(file: Path, rows: list[dict[str, Any]]) -> None:
    import_quietly("pandas")
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist(rows), file)


def write(file: Path, rows: list[dict[str, Any]]) -> Path:
    suffix = file.name.removesuffix(".gz").rsplit(".", 1)[1]
    if suffix == "jsonl":
        file.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n\n", newline="")
    elif suffix == "json":
        file.write_text(json.dumps(rows))
    elif suffix == "csv":
        lines = [",".join(rows[0]), *[",".join(f'"{value}"' for value in row.values()) for row in rows]]
        file.write_text("\r\n".join(lines), newline="")
    else:
        write_parquet(file, rows)
    if file.name.endswith(".gz"):
        file.write_bytes(gzip.compress(file.read_bytes(), mtime=0))
    return file


@pytest.mark.parametrize("suffix", [form + packed for form in ("jsonl", "json", "csv", "parquet") for packed in ("", ".gz")])
def test_every_format_reads_the_same_rows(tmp_path: Path, suffix: str) -> None:
    assert values(write(tmp_path / f"data.{suffix}", ROWS)) == ROWS


def test_byte_order_mark_and_wrapped_lists_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b"\xef\xbb\xbf" + b'{"text": "x"}\r\n{"text": "y"}')
    (tmp_path / "b.json").write_text('{"data": [{"text": "z"}]}')
    (tmp_path / "c.json").write_text('{"text": "1"}\n{"text": "2"}\n')
    (tmp_path / "d.csv").write_bytes(b"\xef\xbb\xbftext\nq\n")
    assert [row["text"] for row in values(*tmp_path.iterdir())] == ["x", "y", "z", "1", "2", "q"]


def test_digest_is_the_files_own_or_that_of_the_listing(tmp_path: Path) -> None:
    one, two = write(tmp_path / "one.jsonl", ROWS), write(tmp_path / "two.jsonl", ROWS[:1])
    digests = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in (one, two)}
    assert compute_digest([one]) == f"sha256:{digests['one.jsonl']}"
    listing = "".join(f"{digest}  {name}\n" for name, digest in digests.items())
    assert compute_digest([two, one]) == f"sha256:{hashlib.sha256(listing.encode()).hexdigest()}"


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.jsonl", b'{"text": "x"}\n{"text": \n[1]\n', ["a.jsonl:2: not JSON", "a.jsonl:3: not a JSON object"]),
        ("a.jsonl", b'{"text": NaN}\n', ["a.jsonl:1", "NaN is not JSON"]),
        ("a.jsonl", b'{"text": "x"}\n{"text": "\xe4"}', ["a.jsonl:2: byte 24 (0xe4) is not UTF-8"]),
        ("a.jsonl", '{"text": "x"}'.encode("utf-16"), ["byte 0 (0xff)", "UTF-16"]),
        ("a.json", b'"x"', ["neither a list of rows"]),
        ("a.json", b'{"rows": 1}', ["its keys are rows"]),
        ("a.json", b"[1]", ["a.json, row 1: not a JSON object"]),
        ("a.json", b"[" * 100_000, ["nested too deeply"]),
        ("a.csv", b"a,b\n1,2\n3\n4,5,6\n", ["a.csv:3: 1 fields under 2 columns", "a.csv:4: 3 fields"]),
        ("a.csv", b"a,a\n1,2\n", ["repeated names"]),
        ("a.csv", b'a\n"x', ["not CSV"]),
        ("a.parquet", b"PAR1 no", ["not a Parquet file"]),
        ("a.jsonl.gz", gzip.compress(b'{"text": "x"}', mtime=0)[:-4], ["damaged gzip"]),
        ("a.jsonl.gz", b"plain", ["damaged gzip"]),
        ("a.jsonl", b"\n \n", ["has no rows"]),
        ("a.txt", b"x", ["not a data file"]),
    ],
)
def test_faults_are_named_with_their_place(tmp_path: Path, name: str, content: bytes, words: list[str]) -> None:
    import_quietly("pandas", "pyarrow.parquet")
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataInvalid) as caught:
        load_rows([tmp_path / name])
    assert all(word in caught.value.message for word in words), caught.value.message


def test_faults_of_all_files_come_at_once(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("x\n" * 15)
    (tmp_path / "b.jsonl").write_text("x\n" * 15)
    with pytest.raises(DataInvalid) as caught:
        load_rows(list(tmp_path.iterdir()))
    assert "(30)" in caught.value.message
    assert "b.jsonl:5" in caught.value.message
    assert "… and 10 more" in caught.value.message


@given(content=st.binary(max_size=200), name=st.sampled_from(["a.jsonl", "a.json", "a.csv", "a.jsonl.gz", "a.parquet"]))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_any_bytes_are_rows_or_refused(tmp_path: Path, content: bytes, name: str) -> None:
    import_quietly("pandas", "pyarrow.parquet")
    (tmp_path / name).write_bytes(content)
    try:
        read = values(tmp_path / name)
    except DataInvalid as error:
        message = error.message
    else:
        assert all(isinstance(row, dict) for row in read)
        return
    assert "a." in message


@given(st.lists(st.dictionaries(st.text(min_size=1, max_size=4), st.text(max_size=9), min_size=1), min_size=1, max_size=5))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_json_lines_round_trip(tmp_path: Path, rows: list[dict[str, str]]) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text("\n".join(json.dumps(row) for row in rows))
    assert values(file) == rows
