"""A slice of the matrix that `make matrix` runs, trained for real.

For each: something is learnt, the base stays as it is to the last bit, as many parameters are trained as the formula says, and what is
published answers as what was trained.
"""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from benchmarks.matrix.cells import Cell
from tests.support.adapter_checks import run_and_observe
from tests.support.trainer_process import Trainers

pytestmark = pytest.mark.torch

HIDDEN, INSIDE, LAYERS = 32, 64, 2
LINEAR = [(HIDDEN, HIDDEN)] * 4 + [(HIDDEN, INSIDE)] * 2 + [(INSIDE, HIDDEN)]
"""Inputs and outputs of the linear layers of one layer of the tests' Llama."""
LORA_8 = LAYERS * sum(8 * (inside + outside) for inside, outside in LINEAR)
TOKENS = 20

SLICE = {
    "lora": ("nf4", LORA_8),
    "lora, rslora": ("none", LORA_8),
    "lora, dora": ("fp4", LORA_8 + LAYERS * sum(outside for _, outside in LINEAR)),
    "lora, loraPlusRatio 16": ("fp4, doubleQuant", LORA_8),
    "lora, init gaussian": ("int8", LORA_8),
    "lora, init olora": ("none", LORA_8),
    "lora, init pissa": ("none", LORA_8),
    "adalora": ("none", LAYERS * sum(6 * (inside + outside + 1) for inside, outside in LINEAR)),
    "prompt-tuning": ("nf4, doubleQuant", TOKENS * HIDDEN),
    "none": ("none", None),
}
BASE_CHANGES = {"lora, init olora", "lora, init pissa"}
"""The adapter's first value is taken out of the base while it trains; what is published fits the base as it was."""


def build_cell(adapter: str) -> Cell:
    return Cell((adapter, SLICE[adapter][0], "sft", "1 process"))


class Observed(dict[str, dict[str, Any]]):
    """What was seen of each adapter's run, which happens when it is first asked for."""

    def __init__(self, trainers: Trainers, workspace: Path) -> None:
        super().__init__()
        self._trainers, self._workspace = trainers, workspace

    def __missing__(self, adapter: str) -> dict[str, Any]:
        cell = build_cell(adapter)
        result = self._workspace / f"{cell.name}.json"
        done = self._trainers.call(run_and_observe, [cell], self._workspace, result)
        assert done.wait() == 0, done.log[-4000:]
        self[adapter] = json.loads(result.read_text())[cell.name]
        return self[adapter]


@pytest.fixture(scope="module")
def seen(trainers: Trainers, workspace: Path) -> Observed:
    return Observed(trainers, workspace)


@pytest.mark.parametrize("adapter", SLICE)
def test_it_learns(adapter: str, seen: Observed) -> None:
    before, after = seen[adapter]["losses"]
    assert after < before


@pytest.mark.parametrize("adapter", [adapter for adapter in SLICE if SLICE[adapter][1] is not None])
def test_as_many_parameters_are_trained_as_the_formula_says(adapter: str, seen: Observed) -> None:
    assert seen[adapter]["trained"] == SLICE[adapter][1]


@pytest.mark.parametrize("adapter", [adapter for adapter in SLICE if adapter != "none"])
def test_the_base_stays_as_it_is_to_the_last_bit(adapter: str, seen: Observed) -> None:
    assert seen[adapter]["base_changed"] == 0, "training changed the base"
    assert (seen[adapter]["after_init"] > 0) == (adapter in BASE_CHANGES)


@pytest.mark.parametrize("adapter", SLICE)
def test_what_is_published_answers_as_what_was_trained(adapter: str, seen: Observed) -> None:
    found = seen[adapter]
    assert found["effect"] > 1e-3, "nothing to compare"
    # Exactly, but where a reader or the publication rounds: a magnitude, a difference of two adapters, a whole model, int8's own scales.
    rounds = BASE_CHANGES | {"none", "lora, dora", "adalora"} | {adapter for adapter in SLICE if SLICE[adapter][0] == "int8"}
    allowed = 0.05 * found["effect"] if adapter in rounds else 0.0
    assert found["difference"] <= allowed, found
    assert found["artifact"] == (["model", "transformers"] if adapter == "none" else ["adapter", "peft"])


def test_adalora_shares_out_its_ranks(seen: Observed) -> None:
    """From 6 in each of the 14 matrices to 4 on average, more where they are needed and fewer elsewhere."""
    ranks = seen["adalora"]["ranks"]
    assert len(ranks) == LAYERS * len(LINEAR)
    assert sum(ranks.values()) == 4 * len(ranks)
    assert len(set(ranks.values())) > 1


def test_scales_are_those_of_the_papers(seen: Observed) -> None:
    """LoRA multiplies by alpha / r, rsLoRA by alpha / sqrt(r)."""
    assert {scale for _, scale in seen["lora"]["layers"].values()} == {32 / 8}
    assert all(scale == pytest.approx(32 / math.sqrt(8)) for _, scale in seen["lora, rslora"]["layers"].values())
