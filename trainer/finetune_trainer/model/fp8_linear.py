"""A frozen linear layer whose weight is held in FP8, and multiplied in FP8: see decision 46."""

from typing import Any, Final

import torch
from torch import nn
from torch.nn.functional import ScalingType, scaled_mm

from finetune_trainer.errors import ConfigInvalid

FP8: Final = torch.float8_e4m3fn
"""Of weights, activations and gradients: four bits of exponent, three of fraction, up to 448. A gradient lies nearer in it than in
e5m2, whose longer reach is not needed where each row has a scale of its own."""
COMPUTED: Final = torch.bfloat16
"""The type that products are written in: with scales for rows, GPUs have no wider one."""
MULTIPLE: Final = 16
"""Rows and columns of each matrix come in multiples of this: cuBLAS asks for it of inputs and outputs. Rows of tokens are filled up."""
LARGEST_ERROR: Final = 0.05
"""Share of a product in 32 bits that one in FP8 may be off on random numbers. Rounding alone makes 0.026."""
_REACH: Final = 8
"""The largest number of a row is brought to between 2**7 and 2**8, which is less than 448."""
_SMALLEST: Final = -100
"""Exponent below which a row is as good as nothing, and one divided by its scale still a number."""


class Fp8Linear(nn.Linear):
    """A linear layer to everything that looks for one (adapters, judging), without a weight that could be trained.

    Both its products, the output and the gradient of the input, are made in FP8. Nothing is kept for the backward pass.

    :param values: outputs x inputs, in FP8, as :func:`round_rows` returns them.
    :param scale: outputs x 1, in 32 bits.
    """

    def __init__(self, values: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor | None) -> None:
        nn.Module.__init__(self)
        self.out_features, self.in_features = values.shape
        # As bytes: what changes the type of a model's numbers passes them by (scales stay the same in 16 bits), and DDP can send them.
        self.bytes = _freeze(values.view(torch.uint8))
        self.scale = _freeze(scale)
        self.bias = None if bias is None else _freeze(bias.to(COMPUTED))  # type: ignore[assignment]

    @property
    def values(self) -> torch.Tensor:
        """The weight before it is scaled, outputs x inputs."""
        return self.bytes.view(FP8)

    @property
    def weight(self) -> torch.Tensor:  # type: ignore[override]
        """The weight as numbers, made anew each time: for initialisations and norms."""
        return self.values.to(COMPUTED) * self.scale.to(COMPUTED)

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002  torch's own name
        """Return what the layer says of ``input`` (… x inputs), in :data:`COMPUTED`."""
        output: torch.Tensor = _Multiply.apply(input.to(COMPUTED), self)
        return output if self.bias is None else output + self.bias


class _Multiply(torch.autograd.Function):
    """Autograd would have no gradient of the scaled product, and needs none of the weight."""

    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor, layer: Fp8Linear) -> torch.Tensor:  # noqa: ANN401
        ctx.layer = layer
        return multiply(rows, layer.values, layer.scale)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:  # noqa: ANN401
        layer: Fp8Linear = ctx.layer
        # The weight's scales go along the sum here, so that they are the gradient's first; its rows then get scales of their own.
        columns = layer.values.t().contiguous()
        return multiply(gradient.to(COMPUTED) * layer.scale.t().to(COMPUTED), columns, layer.scale.new_ones(len(columns), 1)), None


def multiply(rows: torch.Tensor, values: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Return the product of ``rows`` (… x n, in :data:`COMPUTED`) and the transposed ``values * scale`` (m x n): … x m, in that type."""
    shape = rows.shape[:-1]
    rows = rows.reshape(-1, rows.shape[-1])
    count = len(rows)
    if missing := -count % MULTIPLE:
        rows = nn.functional.pad(rows, (0, 0, 0, missing))
    given, given_scale = round_rows(rows)
    by_row = ScalingType.RowWise
    product = scaled_mm(given, values.t(), given_scale, by_row, scale.float().t(), by_row, output_dtype=COMPUTED)
    # Not as a view: autograd lets nobody change one of a function of our own in place, and AdaLoRA does.
    result: torch.Tensor = torch.ops.aten._unsafe_view(product[:count], [*shape, len(values)])
    return result


def round_rows(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ``rows`` in FP8, and the scale of each (count x 1, in 32 bits).

    Scales are powers of two, by which bfloat16 is divided and multiplied without rounding: each number is rounded once. FP8 has no
    infinity, and some conversions to it make one the largest number: the scale of a row that is not finite is none.
    """
    largest = rows.abs().amax(-1, keepdim=True).float()
    exponent = torch.frexp(largest).exponent.clamp_min(_SMALLEST) - _REACH
    scale = torch.ldexp(torch.ones_like(largest), exponent).where(largest.isfinite(), torch.nan)
    return (rows / scale.to(rows.dtype)).to(FP8), scale


def check_products(layer: Fp8Linear) -> None:
    """Check that the device of ``layer`` makes its two products as a product in 32 bits is, on random numbers.

    :raises ConfigInvalid: it does not, or can't make them.
    """
    rows = torch.randn(MULTIPLE + 1, layer.in_features, generator=torch.Generator().manual_seed(0)).to(layer.scale.device, COMPUTED)
    gradient = torch.randn(MULTIPLE + 1, layer.out_features, generator=torch.Generator().manual_seed(1)).to(layer.scale.device, COMPUTED)
    weight = layer.weight.float()
    rows.requires_grad_()
    try:
        output: torch.Tensor = _Multiply.apply(rows, layer)
        output.backward(gradient)  # type: ignore[no-untyped-call]
    except (RuntimeError, ValueError, NotImplementedError) as error:
        raise ConfigInvalid(_refuse(layer, f"can't be made ({str(error).splitlines()[0]})")) from error
    assert rows.grad is not None  # noqa: S101  it was asked for
    for what, found, expected in (
        ("the output", output, rows.detach().float() @ weight.t()),
        ("the gradient", rows.grad, gradient.float() @ weight),
    ):
        off = float((found.detach().float() - expected).norm() / expected.norm())
        if not off < LARGEST_ERROR:
            raise ConfigInvalid(_refuse(layer, f"are wrong ({what} is {off:.1%} off the product in 32 bits)"))


def _refuse(layer: Fp8Linear, words: str) -> str:
    device = layer.scale.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
    return f"method.quantization.type fp8: products in FP8 {words} on {name}; set method.quantization.type to nf4"


def _freeze(tensor: torch.Tensor) -> nn.Parameter:
    return nn.Parameter(tensor, requires_grad=False)
