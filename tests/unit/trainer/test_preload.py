"""Start-up: nothing heavy before files are on their way, and nothing that the run has no use for."""

import importlib
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from finetune_trainer.run.preload import Preload, hide_modules

HEAVY = ("torch", "transformers", "peft", "trl", "bitsandbytes", "datasets", "accelerate", "wandb")


def test_a_run_is_loaded_without_the_training_libraries() -> None:
    """They are imported while model and data come in; imported before, they would add to that time."""
    code = f"import sys, finetune_trainer.run\nprint([name for name in {HEAVY!r} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=300)
    assert found.stdout.strip() == "[]"


@pytest.fixture
def unused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module that is installed, and that no other test has loaded."""
    name = "installed_and_unused"
    (tmp_path / f"{name}.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, name, raising=False)
    return name


def test_hidden_modules_look_as_if_they_were_not_installed_and_come_back(unused: str) -> None:
    with hide_modules((unused, "json")):
        assert importlib.util.find_spec(unused) is None
        with pytest.raises(ModuleNotFoundError):
            importlib.import_module(unused)
        assert importlib.import_module("json").loads("1") == 1, "what is loaded already stays"
    assert importlib.util.find_spec(unused) is not None
    assert importlib.import_module(unused).__name__ == unused


def test_a_failed_import_is_raised_where_it_is_waited_for_and_nothing_stays_hidden(unused: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str) -> None:
        raise ImportError(name)

    preload = Preload("sft", (unused,))
    monkeypatch.setattr(importlib, "import_module", fail)
    with pytest.raises(ImportError), preload:
        pass
    assert unused not in sys.modules
