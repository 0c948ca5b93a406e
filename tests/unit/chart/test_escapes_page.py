"""The page of escapes is the one that the tests' own table gives."""

from pathlib import Path

from tests.support.escapes import ATTEMPTS, render_table

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "escapes.md"


def test_the_page_is_as_generated() -> None:
    """To write it anew: `python -c "from tests.support.escapes import *; print(render_table(), end='')" > docs/reference/escapes.md`."""
    assert PAGE.read_text() == render_table()


def test_each_attempt_is_listed_once() -> None:
    names = [attempt.what for attempt in ATTEMPTS]
    assert len(set(names)) == len(names) >= 30
