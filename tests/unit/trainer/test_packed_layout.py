"""Weights that GPTQ, AWQ and compressed-tensors have packed are read as their own libraries read them, and multiplied as plain ones are."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.packed_model import pack_awq, pack_gptq

pytestmark = pytest.mark.torch

SIZES = {"seed": st.integers(0, 2**31), "groups": st.integers(1, 4), "words": st.integers(1, 3)}
"""Inputs are groups of 32; outputs come in words of eight."""


def make_weight(seed: int, outputs: int, groups: int, bits: int) -> tuple[Any, Any, Any]:
    """Make levels (outputs x inputs), zeros and scales (outputs x groups), each at random, both ends included."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    top = 2**bits
    levels = torch.randint(0, top, (outputs, 32 * groups), generator=generator)
    levels[0, :2] = torch.tensor([0, top - 1])
    zeros = torch.randint(1, top, (outputs, groups), generator=generator)
    return levels, zeros, (torch.rand(outputs, groups, generator=generator) + 0.1).half()


def restore_plainly(levels: Any, zeros: Any, scale: Any, order: Any) -> Any:
    return (levels - zeros[:, order]).float() * scale.float()[:, order]


@settings(max_examples=20, deadline=None)
@given(bits=st.sampled_from([4, 8]), version=st.sampled_from(["gptq", "gptq_v2"]), ordered=st.booleans(), **SIZES)
def test_gptq_is_what_its_levels_zeros_and_scales_say(seed: int, groups: int, words: int, bits: int, version: str, ordered: bool) -> None:
    """With inputs that are grouped by activation, too."""
    import torch

    from finetune_trainer.model.packed_layout import read_layout, read_weight, restore

    levels, zeros, scale = make_weight(seed, 8 * words, groups, bits)
    order = torch.arange(32 * groups) // 32
    if not ordered:
        order = order[torch.randperm(len(order), generator=torch.Generator().manual_seed(seed))]
    layout = read_layout({"quant_method": "gptq", "bits": bits, "checkpoint_format": version})
    tensors = pack_gptq(levels, zeros, scale, order, bits, above=version == "gptq")
    weight = read_weight(layout, tensors, *levels.shape)
    assert (weight.order is None) == bool((order == torch.arange(32 * groups) // 32).all())
    assert torch.equal(restore(weight, bits, torch.float32), restore_plainly(levels, zeros, scale, order))


@settings(max_examples=20, deadline=None)
@given(**SIZES)
def test_awq_is_what_the_library_of_servers_makes_of_it(seed: int, groups: int, words: int) -> None:
    import torch
    from compressed_tensors.entrypoints.convert.converters.autoawq import AutoAWQConverter

    from finetune_trainer.model.packed_layout import read_layout, read_weight, restore

    levels, zeros, scale = make_weight(seed, 8 * words, groups, 4)
    tensors = pack_awq(levels, zeros, scale)
    converter = AutoAWQConverter(group_size=32)
    theirs, their_scale, their_zeros = converter._convert_gemm_module(tensors["qweight"], tensors["scales"], tensors["qzeros"])
    order = torch.arange(32 * groups) // 32
    weight = read_weight(read_layout({"quant_method": "awq", "bits": 4, "version": "gemm"}), tensors, *levels.shape)
    restored = restore(weight, 4, torch.float32)
    assert torch.equal(restored, restore_plainly(theirs.int(), their_zeros.int(), their_scale, order))
    assert torch.equal(restored, restore_plainly(levels, zeros, scale, order))


@settings(max_examples=20, deadline=None)
@given(
    bits=st.sampled_from([4, 8]), symmetric=st.booleans(), **{**SIZES, "words": st.integers(2, 3)}
)  # its zeros of 8 outputs fail in 0.20
def test_compressed_tensors_is_what_its_library_decompresses(seed: int, groups: int, words: int, bits: int, symmetric: bool) -> None:
    import torch
    from compressed_tensors.compressors.pack_quantized.base import PackedQuantizationCompressor
    from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme

    from finetune_trainer.model.packed_layout import read_layout, read_weight, restore

    levels, zeros, scale = make_weight(seed, 8 * words, groups, bits)
    middle, scale = 2 ** (bits - 1), scale.float()
    tensors = {
        "weight_packed": pack_to_int32((levels - middle).to(torch.int8), bits),
        "weight_scale": scale,
        "weight_shape": torch.tensor(levels.shape),
    }
    if not symmetric:
        tensors["weight_zero_point"] = pack_to_int32((zeros - middle).to(torch.int8), bits, packed_dim=0).contiguous()
    arguments = QuantizationArgs(num_bits=bits, type="int", symmetric=symmetric, strategy="group", group_size=32)
    theirs = PackedQuantizationCompressor.decompress(tensors, QuantizationScheme(targets=["Linear"], weights=arguments))["weight"]
    described = {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": {"num_bits": bits, "type": "int", "symmetric": symmetric}}},
    }
    weight = read_weight(read_layout(described), tensors, *levels.shape)
    assert torch.equal(restore(weight, bits, torch.float32), theirs)


@settings(max_examples=10, deadline=None)
@given(biased=st.booleans(), narrow=st.booleans(), **SIZES)
def test_the_layer_and_its_gradients_are_those_of_a_plain_one(seed: int, groups: int, words: int, biased: bool, narrow: bool) -> None:
    """In 32 bits and under autocast in 16. The weight has no gradient and does not change."""
    import torch

    from finetune_trainer.model.packed_layout import read_layout, read_weight
    from finetune_trainer.model.packed_linear import PackedLinear

    levels, zeros, scale = make_weight(seed, 8 * words, groups, 4)
    weight = read_weight(read_layout({"quant_method": "awq", "bits": 4}), pack_awq(levels, zeros, scale), *levels.shape)
    bias = torch.arange(8 * words).float() if biased else None
    dtype = torch.bfloat16 if narrow else torch.float32
    packed = PackedLinear(weight, 4, dtype, bias)
    plain = torch.nn.Linear(packed.in_features, packed.out_features, bias=biased, dtype=dtype)
    with torch.no_grad():
        plain.weight.copy_(packed.weight)
        if biased:
            plain.bias.copy_(bias)
    before = packed.levels.clone()
    given_ = torch.randn(3, 5, packed.in_features, generator=torch.Generator().manual_seed(seed))
    results = []
    for layer in (packed, plain):
        rows = given_.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=narrow):
            output = layer(rows)
        output.backward(torch.randn(output.shape, generator=torch.Generator().manual_seed(seed)).to(dtype))
        results.append((output, rows.grad))
    (output, gradient), (expected, their_gradient) = results
    assert output.dtype == expected.dtype == dtype
    near = {"rtol": 0.02, "atol": 0.5} if narrow else {"rtol": 1e-5, "atol": 1e-3}  # of sums of up to 128 products of up to 50 each
    torch.testing.assert_close(output, expected, **near)
    torch.testing.assert_close(gradient, their_gradient, **near)
    assert not any(parameter.requires_grad for parameter in packed.parameters())
    assert torch.equal(packed.levels, before)


GROUP = {"targets": ["Linear"], "weights": {"num_bits": 4, "type": "int"}}


@pytest.mark.parametrize(
    ("found", "words"),
    [
        ({"quant_method": "gptq", "bits": 3}, "by GPTQ to 3 bits; 4 and 8 are read"),
        ({"quant_method": "gptq", "bits": 4, "checkpoint_format": "marlin"}, "in the format marlin"),
        ({"quant_method": "gptq", "bits": 4, "dynamic": {"-:.*mlp.*": {}}}, "settings of their own"),
        ({"quant_method": "awq", "bits": 4, "version": "gemv"}, "in the version gemv; gemm is read"),
        ({"quant_method": "compressed-tensors", "format": "float-quantized", "config_groups": {"g": GROUP}}, "format float-quantized"),
        ({"quant_method": "compressed-tensors", "config_groups": {}}, "format none"),
        (
            {
                "quant_method": "compressed-tensors",
                "format": "pack-quantized",
                "config_groups": {"g": {**GROUP, "input_activations": {"num_bits": 8}}},
            },
            "weights alone are read",
        ),
        (
            {
                "quant_method": "compressed-tensors",
                "format": "pack-quantized",
                "config_groups": {"g": GROUP, "h": {"weights": {"num_bits": 8, "type": "int"}}},
            },
            "of several kinds",
        ),
    ],
)
def test_what_is_laid_out_otherwise_is_refused(found: dict[str, Any], words: str) -> None:
    from finetune_trainer.model.packed_layout import LayoutUnknown, read_layout

    with pytest.raises(LayoutUnknown, match=words):
        read_layout(found)


def test_sizes_that_make_no_weight_are_refused() -> None:
    from finetune_trainer.model.packed_layout import LayoutUnknown, read_layout, read_weight

    levels, zeros, scale = make_weight(0, 8, 2, 4)
    layout = read_layout({"quant_method": "awq", "bits": 4})
    with pytest.raises(LayoutUnknown, match="do not make a weight of 8 x 128"):
        read_weight(layout, pack_awq(levels, zeros, scale), 8, 128)
