"""A layer in FP8 says what its weight says in 32 bits, but for the rounding of what is multiplied, and costs no more than it promises.

One number is rounded by at most a sixteenth of itself (three bits of fraction), so that a product is off by at most a sixteenth of the sum
of its terms' sizes. Rounding is as often up as down: over random numbers, products are 2.7% off.
"""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_trainer.device import Device, check_capability, check_device
from finetune_trainer.errors import ConfigInvalid

pytestmark = pytest.mark.torch

SIZES = {
    "seed": st.integers(0, 2**31),
    "inputs": st.integers(1, 12).map(lambda number: 16 * number),
    "outputs": st.integers(1, 12).map(lambda number: 16 * number),
}
ROUNDING = 2**-4
"""Largest share of itself by which a number is rounded in e4m3."""
FLOOR = 2**-17
"""The same of numbers next to nothing, as a share of the largest of their row."""
WRITTEN = 2**-8
"""The same in bfloat16, in which products are written."""


def make_layer(seed: int, inputs: int, outputs: int, *, biased: bool = False) -> Any:
    """Make a layer of normal numbers, whose rows are of sizes from 1e-3 to 1e3."""
    import torch

    from finetune_trainer.model.fp8_linear import Fp8Linear, round_rows

    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(outputs, inputs, generator=generator) * 10 ** (6 * torch.rand(outputs, 1, generator=generator) - 3)
    return Fp8Linear(*round_rows(weight.to(torch.bfloat16)), torch.randn(outputs, generator=generator) if biased else None)


def make_rows(seed: int, *shape: int) -> Any:
    import torch

    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(torch.bfloat16)


def bound(terms: Any, expected: Any, largest: Any) -> Any:
    """Return how far each product may be off ``expected``, the sum of terms whose sizes add up to ``terms``.

    :param largest: of numbers next to nothing, the sum of what they could have been.
    """
    return ROUNDING * terms + FLOOR * largest + WRITTEN * (expected.abs() + ROUNDING * terms) + 1e-30


@settings(max_examples=40, deadline=None)
@given(tokens=st.integers(0, 40), biased=st.booleans(), **SIZES)
def test_both_products_are_as_near_as_rounding_lets_them(seed: int, inputs: int, outputs: int, tokens: int, biased: bool) -> None:
    """For every number of tokens: those that are no multiple of 16 are filled up, and nothing of that is seen."""
    import torch

    layer = make_layer(seed, inputs, outputs, biased=biased)
    rows = make_rows(seed, tokens, inputs).requires_grad_()
    output = layer(rows)
    assert (output.shape, output.dtype) == ((tokens, outputs), torch.bfloat16)
    weight, given_ = layer.weight.double(), rows.detach().double()
    expected = given_ @ weight.t()
    sizes, largest = weight.abs(), given_.abs().amax(-1, keepdim=True)
    allowed = bound(given_.abs() @ sizes.t(), expected, largest * sizes.sum(-1))
    if biased:
        expected = expected + layer.bias.double()
        allowed = allowed + WRITTEN * expected.abs()
    assert ((output.detach().double() - expected).abs() <= allowed).all()

    gradient = make_rows(seed + 1, tokens, outputs)
    output.backward(gradient)
    assert rows.grad is not None
    sent = gradient.double()
    expected = sent @ weight
    scaled = sent * layer.scale.double().t()  # what is rounded, since the weight's scales go along this sum
    left = layer.values.to(torch.float64).abs()
    allowed = bound(sent.abs() @ sizes, expected, scaled.abs().amax(-1, keepdim=True) * left.sum(0))
    assert ((rows.grad.double() - expected).abs() <= allowed).all()


def test_random_products_are_nearly_three_percent_off() -> None:
    """Of a layer as large as those of small models: what the check on the device asks for, with as much again."""
    from finetune_trainer.model.fp8_linear import LARGEST_ERROR, Fp8Linear, round_rows

    layer = Fp8Linear(*round_rows(make_rows(0, 768, 512)), None)
    rows, gradient = make_rows(1, 129, 512).requires_grad_(), make_rows(2, 129, 768)
    output = layer(rows)
    output.backward(gradient)
    weight = layer.weight.float()
    for found, expected in ((output.detach(), rows.detach().float() @ weight.t()), (rows.grad, gradient.float() @ weight)):
        assert found is not None
        assert 0.02 < float((found.float() - expected).norm() / expected.norm()) < 0.03 < LARGEST_ERROR


@settings(max_examples=20, deadline=None)
@given(**SIZES)
def test_a_weight_is_rounded_once_and_its_scales_not_at_all(seed: int, inputs: int, outputs: int) -> None:
    import torch

    from finetune_trainer.model.fp8_linear import round_rows

    rows = make_rows(seed, outputs, inputs)
    values, scale = round_rows(rows)
    assert values.dtype == torch.float8_e4m3fn
    assert torch.equal(torch.frexp(scale).mantissa, torch.full_like(scale, 0.5))
    restored = values.float() * scale
    allowed = ROUNDING * rows.float().abs() + FLOOR * rows.float().abs().amax(-1, keepdim=True)
    assert ((restored - rows.float()).abs() <= allowed).all()
    again, scale_again = round_rows(restored.to(torch.bfloat16))
    torch.testing.assert_close(again.float() * scale_again, restored, rtol=0, atol=FLOOR * 2 * float(restored.abs().max()))


def test_it_makes_two_products_and_keeps_nothing_for_the_second(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing but what the layer holds is there between the passes, and the weight gets no gradient."""
    import torch

    from finetune_trainer.model import fp8_linear

    made: list[tuple[torch.dtype, torch.dtype]] = []
    multiply = fp8_linear.scaled_mm

    def count(left: torch.Tensor, right: torch.Tensor, *others: Any, **options: Any) -> torch.Tensor:
        made.append((left.dtype, right.dtype))
        assert left.shape[0] % 16 == 0
        assert left.stride(1) == right.stride(0) == 1, "the one by rows, the other by columns"
        return multiply(left, right, *others, **options)

    monkeypatch.setattr(fp8_linear, "scaled_mm", count)
    layer = make_layer(0, 64, 32)
    before = [parameter.clone() for parameter in layer.parameters()]
    kept: list[torch.Tensor] = []
    rows = make_rows(0, 2, 5, 64).requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        output = layer(rows)
    output.sum().backward()
    assert made == [(torch.float8_e4m3fn, torch.float8_e4m3fn)] * 2
    assert kept == []
    assert all(not each.requires_grad and each.grad is None for each in layer.parameters())
    assert all(torch.equal(each, then) for each, then in zip(layer.parameters(), before, strict=True))
    assert sum(each.numel() * each.element_size() for each in layer.parameters()) == 64 * 32 + 4 * 32
    layer(rows.detach())  # nothing below it is trained: no second product
    assert len(made) == 3


@pytest.mark.parametrize("fault", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_is_not_hidden(fault: float) -> None:
    """FP8 has no infinity: a run that diverges must be seen to."""
    layer = make_layer(0, 64, 32)
    rows = make_rows(0, 20, 64)
    rows[3, 5] = fault
    finite = layer(rows).isfinite().all(-1)
    assert not finite[3]
    assert finite.sum() == 19


@pytest.mark.parametrize("size", [0.0, 1e-38, 1e30])
def test_rows_of_any_size_are_scaled(size: float) -> None:
    layer = make_layer(0, 64, 32)
    rows = (make_rows(0, 20, 64).float() * size).to(layer.weight.dtype)
    output = layer(rows).float()
    assert output.isfinite().all()
    assert bool((output == 0).all()) == (size < 1e-30)


def test_what_adapters_ask_of_a_layer_it_has() -> None:
    """It is a linear layer, lets its output be changed, takes what autocast casts, and says the same in another type."""
    import torch

    layer = make_layer(0, 64, 32)
    assert isinstance(layer, torch.nn.Linear)
    assert (layer.in_features, layer.out_features, layer.weight.shape) == (64, 32, (32, 64))
    rows = make_rows(0, 3, 64)
    expected = layer(rows)
    changed = layer(rows.clone().requires_grad_())
    changed += 1  # as AdaLoRA does
    changed.sum().backward()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(layer(rows.float()), expected)
    assert torch.equal(layer.to(torch.bfloat16)(rows), expected)


def test_a_device_that_makes_other_products_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from finetune_trainer.model import fp8_linear

    layer = make_layer(0, 64, 32)
    fp8_linear.check_products(layer)
    multiply = fp8_linear.scaled_mm

    def forget_scales(left: Any, right: Any, given_: Any, *others: Any, **options: Any) -> Any:
        return multiply(left, right, torch.ones_like(given_), *others, **options)

    def fail(*_: Any, **__: Any) -> Any:
        raise RuntimeError("no kernel image is available\nfor execution")

    monkeypatch.setattr(fp8_linear, "scaled_mm", forget_scales)
    with pytest.raises(
        ConfigInvalid, match=r"products in FP8 are wrong \(the output is .*% off the product in 32 bits\) on cpu; set .* to nf4"
    ):
        fp8_linear.check_products(layer)
    monkeypatch.setattr(fp8_linear, "scaled_mm", fail)
    with pytest.raises(ConfigInvalid, match=r"can't be made \(no kernel image is available\) on cpu; set .* to nf4"):
        fp8_linear.check_products(layer)


def test_gpus_without_fp8_are_refused_by_name() -> None:
    """Before anything is loaded. Processors are none."""
    with pytest.raises(ConfigInvalid, match=r"capability 8.9 or more .* NVIDIA A100 has 8.0; set method.quantization.type to nf4 or int8"):
        check_capability((8, 0), "NVIDIA A100")
    check_capability((8, 9), "NVIDIA L4")
    check_capability((12, 0), "NVIDIA B300")
    check_device(Device("cpu", "cpu"), "fp8")
