"""Each kind of bad data is refused in words that name the place and the remedy, and the reference shows them as they are."""

from pathlib import Path

import pytest

from tests.support.bad_data import BAD_FILES, PAGE, BadFile, build_page, read
from tests.support.quiet_imports import import_quietly


@pytest.fixture(autouse=True)
def _libraries() -> None:
    import_quietly("pandas", "pyarrow.parquet")


@pytest.mark.parametrize("bad", BAD_FILES, ids=lambda bad: bad.what)
def test_it_is_refused_with_its_place(bad: BadFile, tmp_path: Path) -> None:
    message = read(bad, tmp_path)
    assert bad.name in message or "dataset.columns" in message, message
    assert len(message) < 10_000


def test_there_are_at_least_25_kinds() -> None:
    assert len({bad.what for bad in BAD_FILES}) >= 25


def test_the_reference_shows_what_is_said() -> None:
    assert PAGE.read_text(encoding="utf-8") == build_page(), "run `python -m tests.support.bad_data`"
