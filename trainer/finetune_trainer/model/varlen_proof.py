"""The proof, on the device itself, that attention by variable lengths is what attention by a mask is."""

import math
from dataclasses import dataclass, field
from typing import Any, Final

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from finetune_trainer.model.varlen import attend, attend_to_rows, find_obstacle, narrow
from finetune_trainer.model.varlen_rows import PackedRows, describe_rows, find_starts

_OBSERVED: Final = "finetune_varlen_observed"
"""Name among transformers' attentions of one that computes each layer both ways, and goes on with the mask's."""
_LENGTH: Final = 8
_TRIED: Final = (1, 200, 7, 56)
"""Tokens of the examples that kernel and gradients are tried on: more than one block of the kernel's, and less."""
_WINDOW: Final = 31
LARGEST: Final = 0.03
"""Share of the numbers' size, on average, that a layer may be off. The kernel's roundings to bfloat16 make 0.25% (computed after it); a
window that is one token too long makes 7% on what is tried here, an example that sees those before it 20 to 46%."""
_LARGEST_LOGITS: Final = 5e-3
"""Likewise for the logits, where all is computed by masks: only what else rounds by itself, such as experts."""


class NoLayer(Exception):
    """No layer of the model can go by variable lengths; the message says why."""


class NotTheSame(Exception):
    """Attention by variable lengths is something else here than by a mask."""


@dataclass(frozen=True, slots=True)
class _Shape:
    """What one layer asks the kernel for."""

    heads: int
    shared: int
    """Heads of keys and values."""
    size: int
    of_values: int
    """Numbers of a head, and of its values."""
    scaling: float | None
    windows: bool
    dtype: torch.dtype


@dataclass(slots=True)
class _Observer:
    """Computes each layer both ways.

    :param device: where the kernel is; the model may be on the processor still.
    """

    device: torch.device
    layers: int = 0
    obstacles: list[str] = field(default_factory=list)
    shapes: set[_Shape] = field(default_factory=set)
    worst: float = 0.0

    def attend(
        self,
        module: torch.nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: Any,  # noqa: ANN401
        dropout: float = 0.0,
        scaling: float | None = None,
        **options: Any,  # noqa: ANN401
    ) -> tuple[torch.Tensor, None]:
        """Compute one layer by the mask, and hold the kernel's result against it."""
        rows = attention_mask
        mask = rows.mask() if isinstance(rows, PackedRows) else rows
        by_mask = sdpa_attention_forward(module, query, key, value, mask, dropout=dropout, scaling=scaling, **options)
        if not isinstance(rows, PackedRows):
            self.obstacles.append("examples see by rules of the model's own")
            return by_mask
        query, key, value = narrow(query, key, value)
        if (obstacle := find_obstacle(query, key, value, dropout, options)) is not None:
            self.obstacles.append(obstacle)
            return by_mask
        there = PackedRows(rows.starts.to(self.device), rows.longest, rows.window, rows.build)
        found = attend_to_rows(query.to(self.device), key.to(self.device), value.to(self.device), there, scaling)
        self.worst = max(self.worst, _compare(found.to(query.device), by_mask[0]))
        self.layers += 1
        self.shapes.add(
            _Shape(query.shape[1], key.shape[1], query.shape[-1], value.shape[-1], scaling, rows.window is not None, query.dtype)
        )
        return by_mask


def prove(model: Any, device: torch.device) -> str:  # noqa: ANN401
    """Prove that ``model``'s layers compute the same by variable lengths as by a mask, and that their gradients do; change nothing.

    The model answers to two packed examples as it is, and once more while each layer is computed both ways. Then the kernel and its
    gradients are tried on random numbers of each layer's shapes, longer examples and a window among them, against 32 bits.

    :param device: where the model will be trained.
    :return: which of its layers go by it, for people.
    :raises NoLayer: none does.
    :raises NotTheSame: it is not so.
    """
    vocabulary = model.get_input_embeddings().weight.shape[0]
    ids = torch.randint(vocabulary, (1, 2 * _LENGTH), generator=torch.Generator().manual_seed(0))
    row = {"input_ids": ids, "position_ids": torch.arange(_LENGTH).repeat(2)[None]}
    row = {name: tensor.to(next(model.parameters()).device) for name, tensor in row.items()}
    before, training = model.config.get_text_config()._attn_implementation, model.training
    observer = _Observer(device)
    AttentionInterface.register(_OBSERVED, observer.attend)
    AttentionMaskInterface.register(_OBSERVED, describe_rows)
    model.eval()
    try:
        with torch.no_grad():
            by_mask = model(**row, use_cache=False).logits
            model.set_attn_implementation(_OBSERVED)
            observed = model(**row, use_cache=False).logits
    finally:
        model.set_attn_implementation(before)
        model.train(training)
        AttentionInterface.register(_OBSERVED, attend)  # and let go of the observer
    if not observer.layers:
        raise NoLayer(observer.obstacles[0] if observer.obstacles else "no layer asks for it")
    if (off := _compare(observed, by_mask)) > _LARGEST_LOGITS:
        raise NotTheSame(f"the model answers otherwise by masks alone: its logits differ by {off:.1%}")
    if observer.worst > LARGEST:
        raise NotTheSame(f"on {device} the kernel is {observer.worst:.1%} off in the attention of one of the layers")
    for shape in observer.shapes:
        for window in (None, _WINDOW) if shape.windows else (None,):
            name, off = max(measure_kernel(shape, window, device).items(), key=lambda found: found[1])
            if off > LARGEST:
                raise NotTheSame(f"on {device} the kernel is {off:.1%} off in {name}, with heads of {shape.size}")
    if observer.obstacles:
        return f"{observer.layers} of {observer.layers + len(observer.obstacles)} layers (by a mask in the others: {observer.obstacles[0]})"
    return f"all {observer.layers} layers"


def measure_kernel(shape: _Shape, window: int | None, device: torch.device) -> dict[str, float]:
    """Return how much the kernel's output and its three gradients are off, as shares of their size, on random numbers of ``shape``."""
    total = sum(_TRIED)
    generator = torch.Generator().manual_seed(1)
    sizes = {
        "query": (shape.heads, shape.size),
        "key": (shape.shared, shape.size),
        "value": (shape.shared, shape.of_values),
        "output": (shape.heads, shape.of_values),
    }
    numbers = {
        name: torch.randn(1, heads, total, size, generator=generator).to(device, shape.dtype) for name, (heads, size) in sizes.items()
    }
    upstream = numbers.pop("output").transpose(1, 2)
    if shape.scaling is not None:  # scores of size 1 by any scale: where one token takes all, gradients are what rounding leaves
        numbers["query"] /= shape.scaling * shape.size**0.5
    examples = torch.repeat_interleave(torch.arange(len(_TRIED)), torch.tensor(_TRIED)).to(device)

    def sees(places: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
        near = others > places - (total if window is None else window)
        return (examples[places] == examples[others]) & (others <= places) & near

    places = torch.arange(total, device=device)
    mask = sees(places[:, None], places[None])
    found = find_starts(sees, 1, total, window, device)
    assert found is not None  # noqa: S101  that is what it sees by
    rows = PackedRows(*found, window, lambda: mask)
    with torch.enable_grad(), torch.autocast(device.type, enabled=False):
        ours = [tensor.clone().requires_grad_() for tensor in numbers.values()]
        by_kernel = attend_to_rows(ours[0], ours[1], ours[2], rows, shape.scaling)
        gradients = torch.autograd.grad(by_kernel, ours, upstream)
        exact = [tensor.float().requires_grad_() for tensor in numbers.values()]
        query, key, value = (tensor.repeat_interleave(shape.heads // tensor.shape[1], 1) for tensor in exact)
        by_mask = scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=shape.scaling).transpose(1, 2)
        expected = torch.autograd.grad(by_mask, exact, upstream.float())
    names = [f"the gradient of each {name}" for name in numbers]
    return {
        "attention": _compare(by_kernel.detach(), by_mask.detach()),
        **dict(zip(names, map(_compare, gradients, expected), strict=True)),
    }


def _compare(found: torch.Tensor, expected: Any) -> float:  # noqa: ANN401
    """Return the mean difference as a share of the mean size: infinite where a number is none."""
    off = float((found.float() - expected.float()).abs().mean() / expected.float().abs().mean().clamp_min(1e-9))
    return math.inf if math.isnan(off) else off
