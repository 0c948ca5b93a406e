"""A frozen linear layer whose weight stays in whole numbers, and is made for as long as it is multiplied."""

from typing import Any

import torch
from torch import nn

from finetune_trainer.model.packed_layout import PackedWeight, restore


class PackedLinear(nn.Linear):
    """A linear layer to everything that looks for one (adapters, judging), without a weight that could be trained.

    Forward and backward pass make the weight each, and keep nothing of it between them: of all weights, one at a time is there.
    """

    def __init__(self, weight: PackedWeight, bits: int, dtype: torch.dtype, bias: torch.Tensor | None) -> None:
        nn.Module.__init__(self)
        outputs, columns = weight.levels.shape
        self.in_features, self.out_features = columns * 8 // bits, outputs
        self.bits, self.dtype = bits, dtype
        self.levels = _freeze(weight.levels)
        self.zeros = _freeze(weight.zeros)
        self.scale = _freeze(weight.scale)
        self.order = None if weight.order is None else _freeze(weight.order)
        self.bias = None if bias is None else _freeze(bias.to(dtype))  # type: ignore[assignment]

    def restore(self, dtype: torch.dtype) -> torch.Tensor:
        """Return the weight, outputs x inputs, in ``dtype``."""
        return restore(PackedWeight(self.levels, self.zeros, self.scale, self.order), self.bits, dtype)

    @property
    def weight(self) -> torch.Tensor:  # type: ignore[override]
        """The weight as numbers, made anew each time: for initialisations and norms."""
        with torch.no_grad():
            return self.restore(self.dtype)

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002  torch's own name
        """Return what the layer says of ``input`` (… x inputs), in the type that a layer with a weight in ``dtype`` would."""
        kind = input.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else self.dtype
        output: torch.Tensor = _Multiply.apply(input.to(dtype), self)
        return output


class _Multiply(torch.autograd.Function):
    """Autograd would keep the weight that it multiplied by until the backward pass."""

    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor, layer: PackedLinear) -> torch.Tensor:  # noqa: ANN401
        ctx.layer = layer
        bias = None if layer.bias is None else layer.bias.to(rows.dtype)
        return nn.functional.linear(rows, layer.restore(rows.dtype), bias)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:  # noqa: ANN401
        return gradient @ ctx.layer.restore(gradient.dtype), None


def _freeze(tensor: torch.Tensor) -> nn.Parameter:
    return nn.Parameter(tensor, requires_grad=False)
