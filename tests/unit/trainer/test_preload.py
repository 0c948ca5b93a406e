"""Start-up: nothing heavy before files are on their way, and nothing that the run has no use for."""

import importlib
import importlib.util
import subprocess
import sys

import pytest

from finetune_trainer.run.preload import Preload, hide_modules

HEAVY = ("torch", "transformers", "peft", "trl", "bitsandbytes", "datasets", "accelerate", "wandb")


def test_a_run_is_loaded_without_the_training_libraries() -> None:
    """They are imported while model and data come in; imported before, they would add to that time."""
    code = f"import sys, finetune_trainer.run\nprint([name for name in {HEAVY!r} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=300)
    assert found.stdout.strip() == "[]"


def test_hidden_modules_look_as_if_they_were_not_installed_and_come_back() -> None:
    with hide_modules(("wave", "json")):
        assert importlib.util.find_spec("wave") is None
        with pytest.raises(ModuleNotFoundError):
            importlib.import_module("wave")
        assert importlib.import_module("json").loads("1") == 1, "what is loaded already stays"
    assert importlib.util.find_spec("wave") is not None
    assert importlib.import_module("wave").__name__ == "wave"


def test_a_failed_import_is_raised_where_it_is_waited_for_and_nothing_stays_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str) -> None:
        raise ImportError(name)

    preload = Preload("sft", ("sunau",))
    monkeypatch.setattr(importlib, "import_module", fail)
    with pytest.raises(ImportError), preload:
        pass
    assert "sunau" not in sys.modules
