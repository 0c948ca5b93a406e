"""A slice of what `make families` proves: the default on every family of models, and what only some of them have.

Tiny random models are trained by the trainer's whole run, published, loaded again by PEFT and transformers alone, and merged.
"""

from pathlib import Path

import pytest

from benchmarks.families.catalog import DEFAULT, EXPERTS, FAMILIES
from benchmarks.families.proof import Proof, prove_each, read_proofs
from tests.support.trainer_process import Trainers

pytestmark = [pytest.mark.torch, pytest.mark.timeout(1800)]

ALIKE = ("Qwen2", "Qwen3", "Gemma", "Gemma 2", "GLM", "Falcon, new", "Qwen2-MoE", "GLM-4.5")
"""Families of which another one with all of their parts is in the slice; all are in `make families`."""
DEFAULTS = [(family, DEFAULT) for family in FAMILIES if family not in ALIKE]
PARTS = [
    ("Mixtral", EXPERTS),
    ("Falcon", "prefix tuning"),
    ("Mixtral", "prefix tuning"),
    ("Phi", "(IA)3"),
    ("GPT-2", "(IA)3"),
    ("Gemma", "all weights"),
]
SLICE = DEFAULTS + PARTS
CHUNK = 5
"""Proofs to a process, each of which has a deadline."""


@pytest.fixture(scope="module")
def proofs(trainers: Trainers, workspace: Path) -> dict[tuple[str, str], Proof]:
    proofs: dict[tuple[str, str], Proof] = {}
    for begin in range(0, len(SLICE), CHUNK):
        pairs, result = SLICE[begin : begin + CHUNK], workspace / f"families-{begin}.json"
        done = trainers.call(prove_each, pairs, workspace, result)
        assert done.wait() == 0, done.log[-4000:]
        proofs |= dict(zip(pairs, read_proofs(result), strict=True))
    return proofs


@pytest.mark.parametrize("pair", SLICE, ids=": ".join)
def test_it_learns_and_answers_the_same_when_loaded_again_and_merged(pair: tuple[str, str], proofs: dict[tuple[str, str], Proof]) -> None:
    proof = proofs[pair]
    if pair == ("Falcon", "prefix tuning"):  # which has one head of keys for all
        assert proof.refused is not None
        assert "prefix-tuning does not fit models of type falcon" in proof.refused
    else:
        assert proof.losses is not None, proof
        assert proof.holds, proof


@pytest.mark.parametrize("pair", DEFAULTS, ids=": ".join)
def test_packing_is_refused_where_examples_would_see_each_other(pair: tuple[str, str], proofs: dict[tuple[str, str], Proof]) -> None:
    assert proofs[pair].packed == (pair[0] not in ("Falcon", "BLOOM", "OPT"))


def test_all_linear_layers_are_adapted_fused_ones_too(proofs: dict[tuple[str, str], Proof]) -> None:
    assert proofs["Falcon", DEFAULT].targets == ("dense", "dense_4h_to_h", "dense_h_to_4h", "query_key_value")
    assert proofs["Phi-3", DEFAULT].targets == ("down_proj", "gate_up_proj", "o_proj", "qkv_proj")
    assert proofs["GPT-2", DEFAULT].targets == ("c_attn", "c_fc", "c_proj")


def test_experts_are_adapted_only_if_asked_for(proofs: dict[tuple[str, str], Proof]) -> None:
    assert proofs["Mixtral", DEFAULT].targets == ("k_proj", "o_proj", "q_proj", "v_proj")
    assert proofs["Mixtral", EXPERTS].trained > proofs["Mixtral", DEFAULT].trained
