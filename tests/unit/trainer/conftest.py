"""The trainer's libraries, imported once, before a test turns their warnings into errors."""

import pytest

from tests.support.quiet_imports import import_quietly


@pytest.fixture(autouse=True)
def libraries(request: pytest.FixtureRequest) -> None:
    if request.node.get_closest_marker("torch"):
        import_quietly("pandas", "torch", "datasets", "transformers", "trl", "trl.trainer.sft_trainer", "trl.chat_template_utils")
