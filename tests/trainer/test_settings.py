"""From the specification to the library's settings, where no run on a processor can show it."""

import json
from pathlib import Path

import pytest

from tests.support.settings_checks import build_settings, choose_kernels_without_a_compiler, find_offloading
from tests.support.trainer_process import Trainers

pytestmark = pytest.mark.torch


def test_activations_are_offloaded_on_a_gpu_and_nowhere_else(trainers: Trainers, tmp_path: Path) -> None:
    """On the processor they are in its memory already: what a simulated GPU trains is left alone."""
    result = tmp_path / "seen.json"
    built = trainers.call(build_settings, {"activationOffloading": True}, result)
    assert built.wait() == 0, built.log
    assert json.loads(result.read_text()) == {"cuda": True, "cpu": False}
    built = trainers.call(build_settings, {}, result)
    assert built.wait() == 0, built.log
    assert json.loads(result.read_text()) == {"cuda": False, "cpu": False}


def test_the_trainers_hook_for_it_is_in_place(trainers: Trainers, tmp_path: Path) -> None:
    """Every trainer that the API lets offload reads the setting, and the others do not know it."""
    result = tmp_path / "seen.json"
    found = trainers.call(find_offloading, result)
    assert found.wait() == 0, found.log
    seen = json.loads(result.read_text())
    assert seen["offered"] == seen["known"]
    assert "sft" in seen["known"]
    assert "orpo" not in seen["known"]


def test_without_a_compiler_the_loss_is_computed_without_kernels(trainers: Trainers, tmp_path: Path) -> None:
    """Triton compiles its launcher on the machine that it runs on. Where it can't, the first step on a GPU would fail."""
    result = tmp_path / "seen.json"
    chosen = trainers.call(choose_kernels_without_a_compiler, result)
    assert chosen.wait() == 0, chosen.log
    assert json.loads(result.read_text()) == {"asks": True, "before": True, "on a processor": True, "after": False}
    assert "not by TRL's Triton kernels, which would be faster: Failed to find C compiler" in chosen.log
