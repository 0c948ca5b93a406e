"""The memory estimate: pure arithmetic on shapes and settings. `tests/trainer/test_estimate.py` holds it to the real libraries."""

import copy
from typing import Any

import pytest

from finetune_api.estimate import ShapeUnknown, compute_changes_that_fit, compute_estimate, read_shape
from finetune_api.resource import parse_spec
from finetune_api.spec import FineTuneJobSpec
from tests.support.manifests import build_minimal_manifest, merge

LLAMA_8B: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "tie_word_embeddings": False,
}
GIB = 2**30


def spec(**patch: Any) -> FineTuneJobSpec:
    return parse_spec(merge(build_minimal_manifest()["spec"], patch))


def estimate(**patch: Any) -> dict[str, int]:
    return {term.name: term.size_bytes for term in compute_estimate(read_shape(LLAMA_8B), spec(**patch)).terms}


def test_an_8b_model_has_8_billion_parameters() -> None:
    assert read_shape(LLAMA_8B).parameters == 8_030_261_248


def test_quantised_weights_take_what_the_qlora_paper_says() -> None:
    """0.127 bits a parameter for the constants with double quantisation, 0.5 without (arXiv 2305.14314, section 3)."""
    weights = read_shape(LLAMA_8B).linear_parameters
    terms = estimate()
    assert terms["base in 4 bits"] == weights / 2
    assert terms["quantisation constants"] * 8 / weights == pytest.approx(0.127, abs=0.001)
    single = estimate(method={"quantization": {"doubleQuant": False}})
    assert single["quantisation constants"] * 8 / weights == pytest.approx(0.5)


def test_the_adapter_has_r_times_both_sides_of_each_layer() -> None:
    sides = 4096 + 4096 + 2 * (4096 + 1024) + 4096 + 4096 + 3 * (4096 + 14336)
    assert estimate()["adapter"] == 2 * 16 * 32 * sides
    assert estimate(method={"adapter": {"targetModules": "q_proj"}})["adapter"] == 2 * 16 * 32 * (4096 + 4096)
    assert estimate(method={"adapter": {"targetModules": r".*\.mlp\..*"}})["adapter"] == 2 * 16 * 32 * 3 * (4096 + 14336)


@pytest.mark.parametrize(
    ("optimizer", "bytes_per_number"),
    [("paged_adamw_8bit", 2.03125), ("paged_adamw_32bit", 8), ("adamw_torch", 4), ("paged_lion_8bit", 1.015625), ("sgd", 0)],
)
def test_an_optimizer_s_states_are_counted(optimizer: str, bytes_per_number: float) -> None:
    terms = estimate(training={"optimizer": optimizer})
    assert terms.get("optimizer", 0) == pytest.approx(terms["adapter"] / 2 * bytes_per_number, rel=1e-3)


def test_checkpointing_batch_and_length_move_the_peak_as_they_should() -> None:
    shape = read_shape(LLAMA_8B)

    def total(**training: Any) -> int:
        return compute_estimate(shape, spec(training=training)).allocated_bytes

    assert total(gradientCheckpointing=False) > 2 * total()
    assert total(perDeviceBatchSize=1) < total(perDeviceBatchSize=2) < total(perDeviceBatchSize=4)
    assert total(maxLength=512) < total(maxLength=4096)
    assert total(packing=True) > total(packing=False), "a packed row is as long as the batch: its mask is wider"


def test_all_terms_are_named_and_add_up() -> None:
    computed = compute_estimate(read_shape(LLAMA_8B), spec())
    assert computed.total_bytes == sum(term.size_bytes for term in computed.terms)
    assert computed.allocated_bytes == sum(term.size_bytes for term in computed.terms if term.kind != "assumed")
    assert all(term.name and term.why and term.size_bytes > 0 for term in computed.terms)


def test_what_would_make_it_fit_does_make_it_fit() -> None:
    shape = read_shape(LLAMA_8B)
    changes = compute_changes_that_fit(shape, spec(), 9 * GIB)
    assert changes
    assert [change.keeps_result for change in changes] == sorted((change.keeps_result for change in changes), reverse=True)
    for change in changes:
        patched: dict[str, Any] = copy.deepcopy(spec().model_dump(mode="json", by_alias=True, exclude_none=True))
        for path, value in change.fields:
            *parents, last = path.split(".")
            target = patched
            for parent in parents:
                target = target[parent]
            target[last] = value
        total = compute_estimate(shape, parse_spec(patched)).total_bytes
        assert total == change.total_bytes
        assert total <= 9 * GIB


def test_a_smaller_batch_keeps_the_effective_batch() -> None:
    (change,) = [each for each in compute_changes_that_fit(read_shape(LLAMA_8B), spec(), 9 * GIB) if each.keeps_result]
    fields = dict(change.fields)
    assert fields["training.perDeviceBatchSize"] * fields["training.gradientAccumulationSteps"] == 4 * 4  # type: ignore[operator]


def test_nothing_is_advised_where_it_fits_or_nothing_helps() -> None:
    shape = read_shape(LLAMA_8B)
    assert compute_changes_that_fit(shape, spec(), 80 * GIB) == []
    assert compute_changes_that_fit(shape, spec(), 2 * GIB) == []


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({}, "model_type \\(none\\)"),
        ({"model_type": "t5"}, "model_type t5 are not known; known are gemma, llama"),
        ({**LLAMA_8B, "hidden_size": "4096"}, "no usable hidden_size"),
        ({**LLAMA_8B, "quantization_config": {"quant_method": "gptq"}}, "quantised already"),
    ],
)
def test_a_shape_that_is_not_known_is_not_guessed(config: dict[str, Any], words: str) -> None:
    with pytest.raises(ShapeUnknown, match=words):
        read_shape(config)
