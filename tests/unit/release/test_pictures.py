"""The docs' pictures: small, described in words, all used, and fetching nothing."""

import re
from pathlib import Path

import pytest

from release.pictures import LARGEST

DOCS = Path(__file__).parents[3] / "docs"
PICTURES = sorted((DOCS / "pictures").iterdir())
USES = [use for page in DOCS.rglob("*.md") for use in re.findall(r"!\[([^\]]*)\]\(([^)]+)\)", page.read_text())]
LARGEST_TOGETHER = 2_000_000


@pytest.mark.parametrize("picture", PICTURES, ids=lambda path: path.name)
def test_a_picture_is_small(picture: Path) -> None:
    assert picture.stat().st_size < LARGEST


def test_pictures_together_are_small() -> None:
    assert sum(picture.stat().st_size for picture in PICTURES) < LARGEST_TOGETHER


def test_who_does_not_see_a_picture_is_told_what_it_shows() -> None:
    assert [target for words, target in USES if len(words.split()) < 4] == []


@pytest.mark.parametrize("picture", [path for path in PICTURES if path.suffix == ".svg"], ids=lambda path: path.name)
def test_a_drawing_fetches_nothing(picture: Path) -> None:
    addresses = set(re.findall(r"https?://[^\s\"')<]+", picture.read_text()))
    assert addresses <= {"http://www.w3.org/2000/svg", "https://www.textualize.io"}
