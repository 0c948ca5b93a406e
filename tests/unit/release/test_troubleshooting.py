"""Whoever sees a reason finds it in the docs."""

from pathlib import Path

import pytest

from finetune_api.reasons import Reason

PAGE = (Path(__file__).parents[3] / "docs" / "troubleshooting.md").read_text()


@pytest.mark.parametrize("reason", list(Reason), ids=str)
def test_every_reason_has_an_entry(reason: Reason) -> None:
    assert f"`{reason}`" in PAGE, f"docs/troubleshooting.md says nothing of {reason}: what it means, and what to do"
