"""Rounding to 4 bits: nearer to what a layer says than each number rounded for itself, and the file holds what was rounded."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_trainer.errors import ConfigInvalid

pytestmark = pytest.mark.torch


def build_layer(seed: int, outputs: int, inputs: int) -> tuple[Any, Any]:
    """Build a weight, and inputs (rows x inputs) that hang on one another as a model's do."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(outputs, inputs, generator=generator)
    mix = torch.randn(inputs // 4, inputs, generator=generator)
    given_ = torch.randn(512, inputs // 4, generator=generator) @ mix + 0.1 * torch.randn(512, inputs, generator=generator)
    return weight, given_


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 2**31), group=st.sampled_from([32, 64, 128]), blocks=st.integers(1, 2), outputs=st.integers(1, 24))
def test_the_layers_answers_are_nearer_than_by_rounding_each_number(seed: int, group: int, blocks: int, outputs: int) -> None:
    from finetune_trainer.exporting.gptq import round_to_nearest, round_weight

    weight, rows = build_layer(seed, outputs, 128 * blocks)

    def measure(rounded: Any) -> float:
        return float((rows @ (rounded.restore() - weight).T).square().mean())

    assert measure(round_weight(weight, rows.T @ rows, group)) < 0.7 * measure(round_to_nearest(weight, group))


def test_inputs_that_have_nothing_in_common_are_rounded_one_by_one() -> None:
    """Nothing can be made good then: a Hessian that is diagonal gives what rounding each number gives."""
    import torch

    from finetune_trainer.exporting.gptq import round_to_nearest, round_weight

    weight = torch.randn(8, 256, generator=torch.Generator().manual_seed(0))
    ours, plain = round_weight(weight, torch.eye(256), 64), round_to_nearest(weight, 64)
    assert torch.equal(ours.levels, plain.levels)
    assert torch.equal(ours.scale, plain.scale)


def test_inputs_that_never_come_and_too_few_rows_are_no_fault() -> None:
    import torch

    from finetune_trainer.exporting.gptq import round_weight

    rows = torch.randn(3, 64, generator=torch.Generator().manual_seed(0))
    rows[:, :20] = 0
    weight = torch.randn(4, 64, generator=torch.Generator().manual_seed(1))
    for hessian in (rows.T @ rows, torch.zeros(64, 64)):
        restored = round_weight(weight, hessian, 32).restore()
        assert torch.isfinite(restored).all()
        assert float((restored - weight).abs().max()) < 1.5


def test_numbers_that_are_not_finite_are_refused() -> None:
    import torch

    from finetune_trainer.exporting.gptq import round_weight

    with pytest.raises(ValueError, match="not finite"):
        round_weight(torch.zeros(2, 32), torch.full((32, 32), float("nan")), 32)


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 2**31), group=st.sampled_from([32, 64]), outputs=st.integers(1, 9))
def test_what_is_packed_is_what_was_rounded(seed: int, group: int, outputs: int) -> None:
    """By the library that servers unpack with, to the last bit."""
    import torch
    from compressed_tensors.compressors.pack_quantized.helpers import unpack_from_int32

    from finetune_trainer.exporting.gptq import round_to_nearest
    from finetune_trainer.exporting.gptq_folder import pack_weight

    weight = torch.randn(outputs, 128, generator=torch.Generator().manual_seed(seed))
    rounded = round_to_nearest(weight, group)
    packed = pack_weight("layer", rounded)
    assert packed["layer.weight_packed"].numel() * 32 == weight.numel() * 4
    levels = unpack_from_int32(packed["layer.weight_packed"], 4, torch.Size(packed["layer.weight_shape"].tolist()))
    assert torch.equal(levels.to(torch.int8), rounded.levels)
    assert torch.equal(packed["layer.weight_scale"].to(torch.float32), rounded.scale)


@pytest.mark.parametrize(
    ("kind", "settings_", "group", "why"),
    [
        ("llama", {"hidden_size": 96, "intermediate_size": 128}, 64, "width 96, which output.gptq.groupSize 64 does not divide"),
        ("gpt2", {"n_embd": 64, "n_layer": 2, "n_head": 2}, 32, "no linear layers"),
        ("mixtral", {"hidden_size": 64, "intermediate_size": 128, "num_local_experts": 2}, 32, "experts in one tensor"),
    ],
)
def test_models_that_are_not_rounded_are_refused_by_their_shapes(kind: str, settings_: dict[str, int], group: int, why: str) -> None:
    from transformers import AutoConfig

    from finetune_trainer.exporting.gptq_folder import check_gptq

    heads = {} if kind == "gpt2" else {"num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2}
    config = AutoConfig.for_model(kind, vocab_size=64, **heads, **settings_)
    with pytest.raises(ConfigInvalid, match=why):
        check_gptq(config, group, "hf://org/base")


def test_a_model_of_fitting_shapes_is_taken() -> None:
    from transformers import AutoConfig

    from finetune_trainer.exporting.gptq_folder import check_gptq

    check_gptq(
        AutoConfig.for_model("llama", hidden_size=64, intermediate_size=128, num_hidden_layers=3, vocab_size=64), 64, "hf://org/base"
    )


def test_a_model_that_loses_too_much_is_not_published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from finetune_trainer.data.calibration import CalibrationRows, TokenRow
    from finetune_trainer.exporting import gptq_folder
    from tests.support.tiny_model import build_model, build_tokenizer

    tokenizer = build_tokenizer()
    build_model(len(tokenizer)).save_pretrained(tmp_path / "merged")
    tokenizer.save_pretrained(tmp_path / "merged")
    ids = tokenizer("What does the function do?")["input_ids"]
    rows = CalibrationRows([TokenRow(ids, ids)], [TokenRow(ids, ids)])
    distance = gptq_folder.write_gptq(tmp_path / "merged", tmp_path / "good", rows, 32)
    assert distance.holds
    monkeypatch.setattr(gptq_folder, "MAX_LOSS", -1.0)
    with pytest.raises(ConfigInvalid, match="nats a token on held-out rows"):
        gptq_folder.write_gptq(tmp_path / "merged", tmp_path / "bad", rows, 32)
