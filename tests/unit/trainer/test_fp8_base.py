"""A base is rounded to FP8 as its files are read: which of its layers are, and what becomes of all else."""

import logging
from pathlib import Path
from typing import Any

import pytest

from finetune_api.spec import QuantizationSpec
from finetune_trainer.device import Device
from finetune_trainer.errors import ConfigInvalid
from tests.support.packed_model import make_packed_bases

pytestmark = pytest.mark.torch

FP8 = QuantizationSpec(type="fp8")
SIZES = {"vocab_size": 48, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}


def save_model(folder: Path, kind: str = "llama", **changes: Any) -> Any:
    """Write a random model, and return it."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **{**SIZES, **changes}), dtype=torch.float32)
    model.save_pretrained(folder)
    return model


def load(folder: Path, **options: Any) -> Any:
    from finetune_trainer.model.loading import load_model

    return load_model(folder, "hf://org/model", FP8, Device("cpu", "cpu"), **options)


def list_rounded(model: Any) -> set[str]:
    from finetune_trainer.model.fp8_linear import Fp8Linear

    return {name.rpartition(".")[2] for name, module in model.named_modules() if isinstance(module, Fp8Linear)}


def compute_error(held: Any, original: Any) -> float:
    return float((held.float() - original).norm() / original.norm())


def test_linear_layers_are_rounded_and_all_else_stays_in_16_bits(tmp_path: Path) -> None:
    import torch

    original, model = save_model(tmp_path, attention_bias=True), load(tmp_path)
    assert list_rounded(model) == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    assert not any(parameter.requires_grad for parameter in model.parameters())
    for name in ("model.layers.0.self_attn.q_proj", "model.layers.1.mlp.down_proj"):
        layer, before = model.get_submodule(name), original.get_submodule(name)
        assert compute_error(layer.weight, before.weight.detach()) < 0.03
        assert (layer.in_features, layer.out_features) == (before.in_features, before.out_features)
    bias = model.model.layers[0].self_attn.q_proj.bias
    assert torch.equal(bias, original.model.layers[0].self_attn.q_proj.bias.to(torch.bfloat16))
    for weight in (model.lm_head.weight, model.model.embed_tokens.weight, model.model.norm.weight):
        assert weight.dtype == torch.bfloat16


def test_it_says_nearly_what_the_model_says(tmp_path: Path) -> None:
    import torch

    original, model = save_model(tmp_path), load(tmp_path)
    ids = torch.arange(20)[None]
    with torch.no_grad():
        expected, found = (each.eval()(input_ids=ids).logits.float() for each in (original, model))
    assert 0 < compute_error(found, expected) < 0.05


def test_weights_that_lie_the_other_way_round_are_turned(tmp_path: Path) -> None:
    """GPT-2's layers hold inputs x outputs."""
    original = save_model(tmp_path, "gpt2", n_embd=32, n_layer=2, n_head=4, n_positions=64)
    model = load(tmp_path)
    assert list_rounded(model) == {"c_attn", "c_proj", "c_fc"}
    layer, before = model.transformer.h[0].attn.c_attn, original.transformer.h[0].attn.c_attn
    assert (layer.in_features, layer.out_features) == (32, 96)
    assert compute_error(layer.weight, before.weight.detach().t()) < 0.03
    assert compute_error(layer.bias, before.bias.detach() + 0.0) < 0.01 or not before.bias.any()


def test_sizes_that_fp8_does_not_take_stay_and_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save_model(tmp_path, intermediate_size=72)
    with caplog.at_level(logging.WARNING):
        model = load(tmp_path)
    assert list_rounded(model) == {"q_proj", "k_proj", "v_proj", "o_proj"}
    assert "down_proj, gate_proj, up_proj stay in 16 bits: their sizes are no multiples of 16, which FP8 needs" in caplog.text


def test_a_model_of_which_nothing_can_be_rounded_is_refused(tmp_path: Path) -> None:
    save_model(tmp_path, hidden_size=40, intermediate_size=72)
    with pytest.raises(ConfigInvalid, match=r"finds no linear layer to round in a model of type llama.* set .* to none"):
        load(tmp_path)


def test_the_head_of_a_reward_model_stays(tmp_path: Path) -> None:
    import torch

    save_model(tmp_path)
    model = load(tmp_path, score_seed=0)
    assert type(model.score) is torch.nn.Linear
    assert "down_proj" in list_rounded(model)


def test_a_device_whose_products_are_wrong_is_refused_before_the_first_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The layer that is tried is the largest."""
    from finetune_trainer.model import fp8_linear

    tried: list[tuple[int, int]] = []
    multiply = fp8_linear.scaled_mm

    def fail(left: Any, right: Any, *others: Any, **options: Any) -> Any:
        tried.append(tuple(right.shape))
        return -multiply(left, right, *others, **options)

    save_model(tmp_path)
    monkeypatch.setattr(fp8_linear, "scaled_mm", fail)
    with pytest.raises(ConfigInvalid, match=r"products in FP8 are wrong .* set method.quantization.type to nf4"):
        load(tmp_path)
    assert tried[0] == (32, 64)


def test_a_teacher_that_is_quantised_already_stays_as_it_is(tmp_path: Path) -> None:
    from finetune_trainer.model.packed_linear import PackedLinear

    save_model(tmp_path / "model")
    make_packed_bases(tmp_path)
    model = load(tmp_path / "gptq")
    assert not list_rounded(model)
    assert any(isinstance(module, PackedLinear) for module in model.modules())
