"""The quick start's data: enough rows, the same ones every time, and none that gives its held-out answers away."""

import json
import subprocess
import sys
from pathlib import Path

import corpus
import dataset
import pytest

SCRIPT = Path(dataset.__file__)


def run_script(folder: Path, hash_seed: str) -> dict[str, bytes]:
    command = [sys.executable, str(SCRIPT), "--output", str(folder)]
    subprocess.run(command, check=True, capture_output=True, timeout=120, env={"PYTHONHASHSEED": hash_seed})
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def rows() -> list[dataset.Row]:
    return dataset.build_rows()


def test_two_runs_write_the_same_files(tmp_path: Path) -> None:
    first = run_script(tmp_path / "a", "1")
    assert set(first) == {dataset.TRAIN_FILE, dataset.HELD_OUT_FILE, dataset.NOTE_FILE}
    assert first == run_script(tmp_path / "b", "2")


def test_at_least_500_rows_to_learn_from(rows: list[dataset.Row]) -> None:
    train, held_out = dataset.split_rows(rows)
    assert len(train) >= 500
    assert len(held_out) >= 50
    assert sorted([*train, *held_out], key=lambda row: row.prompt) == rows


def test_rows_are_sorted_unique_and_whole(rows: list[dataset.Row]) -> None:
    prompts = [row.prompt for row in rows]
    assert prompts == sorted(set(prompts))
    completions = [row.completion.casefold() for row in rows]
    assert len(set(completions)) == len(completions)
    shortest, longest = dataset.COMPLETION_CHARACTERS
    for row in rows:
        assert row.prompt.strip()
        assert row.prompt.endswith("?\n")
        assert shortest <= len(row.completion) <= longest
        assert row.completion == " ".join(row.completion.split())


def test_known_answer(rows: list[dataset.Row]) -> None:
    answers = {row.prompt: row.completion for row in rows}
    assert answers["What does `json.dumps` do?\n"] == "Serialize ``obj`` to a JSON formatted ``str``."


def test_files_are_prompt_completion_with_their_licence(tmp_path: Path, rows: list[dataset.Row]) -> None:
    dataset.write_dataset(tmp_path)
    lines = (tmp_path / dataset.TRAIN_FILE).read_text(encoding="utf-8").splitlines()
    assert all(set(json.loads(line)) == {"prompt", "completion"} for line in lines)
    assert dataset.read_rows(tmp_path / dataset.HELD_OUT_FILE) == dataset.split_rows(rows)[1]
    note = (tmp_path / dataset.NOTE_FILE).read_text(encoding="utf-8")
    assert "PSF-2.0" in note
    assert sys.version.split()[0] in note


@pytest.mark.parametrize(
    ("docstring", "paragraph"),
    [
        ("Return the value\n    of the name.\n\n    More of it.", "Return the value of the name."),
        ("dump(obj, file) -> None\n\nWrite obj to the file.", "Write obj to the file."),
        ("sqrt(x) -> float Return the root of x.", "Return the root of x."),
        ("no sentence", None),
        ("Return the value: >>> f(1) gives one.", None),
        ("", None),
    ],
)
def test_first_paragraph(docstring: str, paragraph: str | None) -> None:
    assert dataset.first_paragraph(docstring) == paragraph


def test_no_held_out_answer_is_in_the_base_models_text(rows: list[dataset.Row]) -> None:
    _, held_out = dataset.split_rows(rows)
    text = " ".join(" ".join(corpus.build_corpus()).split())
    assert len(text) > 500_000
    assert [row.prompt for row in held_out if row.completion in text] == []


def test_without_docstrings_it_says_so(tmp_path: Path) -> None:
    command = [sys.executable, "-OO", str(SCRIPT), "--output", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode != 0
    assert "strips docstrings" in done.stderr
