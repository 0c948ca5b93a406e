"""A release has its words in the changelog."""

import pytest

from release.changelog import read_section

TEXT = (
    "# Changes\n\n## Unreleased\n\n- later\n\n## 1.2.0 (2026-01-02)\n\n- new\n\n### Part\n\n- more\n\n## 1.2.0-rc.1\n\n## 1.1.0\n\n- old\n"
)


@pytest.mark.parametrize(
    ("version", "section"),
    [("1.2.0", "- new\n\n### Part\n\n- more"), ("1.2.0-rc.1", ""), ("1.1.0", "- old"), ("1.1", None), ("1.3.0", None)],
)
def test_a_version_s_section_is_its_own(version: str, section: str | None) -> None:
    assert read_section(TEXT, version) == section
