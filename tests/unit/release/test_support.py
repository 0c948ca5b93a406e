"""The page of what is supported says what the tests are locked to."""

import pytest

from release.support import PAGE, main, render_page


def test_the_page_is_as_the_locks_say() -> None:
    assert main(["--check"]) == 0, "run: python -m release.support"


def test_a_page_that_is_out_of_date_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    page = tmp_path_factory.mktemp("page") / PAGE.name
    page.write_text(render_page().replace("| torch |", "| torch, an older one |"))
    monkeypatch.setattr("release.support.PAGE", page)
    assert main(["--check"]) == 1
