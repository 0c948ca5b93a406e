"""Data read bit by bit: the same rows, places, faults and choices as of data read whole; and memory that does not grow with them."""

import gzip
import json
import re
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from finetune_api.spec import DatasetSpec
from finetune_trainer.data import load_examples, reading, spool
from finetune_trainer.data.faults import Faults, SourceRow
from finetune_trainer.data.reading import read_rows
from finetune_trainer.data.spool import RowSpool
from finetune_trainer.errors import DataInvalid
from tests.support import whole_reader

SAME_FOLDER = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
TEXT = st.text(st.sampled_from('aä🙂"\\,;\n\r\u2028\x00 {}[]1'), max_size=12)
ROW = st.dictionaries(st.sampled_from(["prompt", "completion", "text"]), TEXT, min_size=1)
LINE = st.one_of(
    ROW.map(lambda row: json.dumps(row, ensure_ascii=False).encode()),
    st.sampled_from([b"", b" ", b"\r", b"{", b"[1]", b"NaN", b'{"text": NaN}', b"x", b'"\xc3', b"\xe4", b"7"]),
)
CELL = st.one_of(TEXT.map(lambda text: '"' + text.replace('"', '""') + '"'), st.sampled_from(["a", "", "ä b", '"', 'x"y']))
CSV = st.lists(st.lists(CELL, min_size=1, max_size=3).map(",".join), max_size=6).map(lambda lines: "\r\n".join(["p,q", *lines]).encode())
CONTENT = st.one_of(
    st.lists(LINE, max_size=8).map(b"\n".join),
    st.lists(LINE, max_size=8).map(lambda lines: b"[" + b",".join(lines) + b"]"),
    CSV,
    st.binary(max_size=60),
)


@pytest.fixture(autouse=True)
def small_buffers(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Let the borders of what is read at once lie in the midst of rows and characters."""
    monkeypatch.setattr(reading, "_BUFFER_BYTES", 16)
    monkeypatch.setattr(spool, "_BUFFER_BYTES", 32)
    return monkeypatch.undo


@given(
    content=CONTENT,
    name=st.sampled_from(["a.jsonl", "a.json", "a.csv"]),
    packed=st.booleans(),
    marked=st.booleans(),
)
@SAME_FOLDER
def test_the_same_is_read_as_of_the_whole_file(tmp_path: Path, content: bytes, name: str, packed: bool, marked: bool) -> None:
    content = b"\xef\xbb\xbf" + content if marked else content
    content = gzip.compress(content, mtime=0) if packed else content
    (tmp_path / name).write_bytes(content)
    expected = whole_reader.read_whole(name, content)
    if isinstance(expected, str) or expected == ([], []):
        words = expected if isinstance(expected, str) else "the dataset has no rows"
        with pytest.raises(DataInvalid, match=re.escape(words)):
            list(read_rows([tmp_path / name], None, Faults()))
        return
    faults = Faults()
    assert [(row.value, row.where) for row in read_rows([tmp_path / name], None, faults)] == expected[0]
    assert faults.count == len(expected[1])
    assert all(said.startswith(fault) for said, fault in zip(faults.listed, expected[1], strict=False))


@given(
    rows=st.lists(st.builds(lambda text: {"text": f"x{text}"}, st.text("abc", max_size=2)), min_size=1, max_size=40),
    held=st.lists(st.builds(lambda text: {"text": f"x{text}"}, st.text("abc", max_size=2)), min_size=1, max_size=4),
    fraction=st.sampled_from([0, 0.05, 0.3, 0.5]),
    weight=st.sampled_from([0.01, 0.4, 1, 2, 2.5]),
    seed=st.integers(0, 3),
    deduplicate=st.booleans(),
)
@SAME_FOLDER
def test_the_same_rows_are_learnt_in_the_same_order_as_when_chosen_in_memory(
    tmp_path: Path, rows: list[Any], held: list[Any], fraction: float, weight: float, seed: int, deduplicate: bool
) -> None:
    for name, some in (("a.jsonl", rows), ("e.jsonl", held)):
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in some))
    more = {"evalFraction": fraction} if fraction else {"eval": {"uri": f"file://{tmp_path}/e.jsonl"}}
    dataset = DatasetSpec.model_validate({"uri": f"file://{tmp_path}/a.jsonl", "weight": weight, "deduplicate": deduplicate, **more})
    left = whole_reader.leave_out_equal(rows, [] if fraction else held) if deduplicate else rows
    out = whole_reader.hold_out(left, fraction, seed)
    kept = [row for number, row in enumerate(left) if number not in out]
    expected = [kept[number] for number in whole_reader.repeat(kept, weight, seed)]
    if not expected:
        with pytest.raises(DataInvalid, match="leaves none to train on"):
            load_examples(dataset, seed, tmp_path / "work", {})
        return
    examples = load_examples(dataset, seed, tmp_path / "work", {})
    assert examples.train[:] == expected
    assert examples.eval[:] == ([left[number] for number in sorted(out)] if fraction else held)


@given(st.lists(st.recursive(st.none() | st.booleans() | st.text(max_size=5), lambda some: st.lists(some, max_size=3), max_leaves=5)))
@SAME_FOLDER
def test_rows_come_back_from_the_disk_as_they_were(tmp_path: Path, values: list[Any]) -> None:
    taken = RowSpool(tmp_path)
    rows = [SourceRow({"messages": value, "half": "\ud800"}, f"a:{number}") for number, value in enumerate(values)]
    for row in rows:
        taken.add(row)
    assert list(taken.finish()) == rows


def test_nothing_is_left_on_the_disk(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "x"}\n' * 9)
    examples = load_examples(DatasetSpec(uri=f"file://{tmp_path}/a.jsonl"), 1, tmp_path / "work", {})
    assert len(examples.train) == 9
    assert not [file for file in (tmp_path / "work").rglob("*") if file.is_file()]


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.jsonl.gz"])
def test_memory_does_not_grow_with_the_data(tmp_path: Path, name: str, small_buffers: Callable[[], None]) -> None:
    small_buffers()
    text = "y" * 4000
    line = f"{text}\n" if name == "a.csv" else json.dumps({"text": text}) + "\n"
    content = (("text\n" if name == "a.csv" else "") + line * 8000).encode()
    (tmp_path / name).write_bytes(gzip.compress(content, 1, mtime=0) if name.endswith(".gz") else content)
    dataset = DatasetSpec(uri=f"file://{tmp_path}/{name}")
    tracemalloc.start()
    try:
        examples = load_examples(dataset, 1, tmp_path / "work", {})
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(examples.train) == 8000
    assert len(content) > 30 * 2**20
    assert peak < 10 * 2**20
