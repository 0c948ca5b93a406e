"""Rounding linear layers to 4 bits by GPTQ (arXiv 2210.17323): the error of each column is made good by the columns after it.

Our own, since the libraries that round ask for other releases of torch or transformers than the trainer has: see decision 40.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import torch
from torch import nn

DAMPING: Final = 0.01
"""Share of the Hessian's mean diagonal that is added to its diagonal, as in the paper."""
_MOST_DAMPING: Final = 1.0
_BLOCK: Final = 128
"""Columns whose errors are passed on together."""
LOWEST, HIGHEST = -8, 7
"""The whole numbers of 4 bits with a sign."""


@dataclass(frozen=True, slots=True)
class Rounded:
    """A weight (outputs x inputs) on its grid."""

    levels: torch.Tensor
    """Whole numbers from -8 to 7, outputs x inputs, 8-bit."""
    scale: torch.Tensor
    """Outputs x groups, float32, each exact in bfloat16."""

    def restore(self) -> torch.Tensor:
        """Return the weight that a reader computes with, float32."""
        return self.levels.to(torch.float32) * self.scale.repeat_interleave(self.levels.shape[1] // self.scale.shape[1], dim=1)


def round_weight(weight: torch.Tensor, hessian: torch.Tensor, group: int) -> Rounded:
    """Return ``weight`` (outputs x inputs) in 4 bits, with a scale for every ``group`` inputs.

    :param hessian: inputs x inputs, the sum of the outer products of what the layer is given; float32.
    :param group: divides the number of inputs.
    :raises ValueError: the Hessian is not finite.
    """
    weight = weight.to(torch.float32).clone()
    outputs, inputs = weight.shape
    factor = _factorise(hessian)
    scales = torch.empty(outputs, inputs // group, device=weight.device)
    levels = torch.empty(outputs, inputs, dtype=torch.int8, device=weight.device)
    for start in range(0, inputs, _BLOCK):
        end = min(start + _BLOCK, inputs)
        errors = torch.zeros(outputs, end - start, device=weight.device)
        for column in range(start, end):
            done = column - start
            if column % group == 0:
                # The scale is chosen for the columns as they will be rounded: with the errors of this block's columns, too.
                stop = min(column + group, end)
                pending = weight[:, column : column + group].clone()
                pending[:, : stop - column] -= errors[:, :done] @ factor[start:column, column:stop]
                scales[:, column // group] = choose_scale(pending)
            scale = scales[:, column // group]
            value = weight[:, column] - errors[:, :done] @ factor[start:column, column]
            level = (value / scale).round().clamp(LOWEST, HIGHEST)
            levels[:, column] = level.to(torch.int8)
            errors[:, done] = (value - level * scale) / factor[column, column]
        weight[:, end:] -= errors @ factor[start:end, end:]
    return Rounded(levels, scales)


def round_to_nearest(weight: torch.Tensor, group: int) -> Rounded:
    """Return ``weight`` (outputs x inputs) in 4 bits, each number for itself."""
    outputs, inputs = weight.shape
    groups = weight.to(torch.float32).reshape(outputs, inputs // group, group)
    scales = choose_scale(groups.reshape(-1, group)).reshape(outputs, -1)
    levels = (groups / scales[..., None]).round().clamp(LOWEST, HIGHEST).to(torch.int8)
    return Rounded(levels.reshape(outputs, inputs), scales)


def choose_scale(rows: torch.Tensor) -> torch.Tensor:
    """Return the scale of each row as it is stored, in 16 bits: rounding must see what a reader will."""
    scale = rows.abs().amax(dim=1).clamp(min=1e-8) / (HIGHEST + 0.5)
    return scale.to(torch.bfloat16).to(torch.float32)


def _factorise(hessian: torch.Tensor) -> torch.Tensor:
    """Return the upper Cholesky factor of the inverse of ``hessian``, damped as little as it takes.

    :raises ValueError: it is not finite.
    """
    if not bool(torch.isfinite(hessian).all()):
        raise ValueError("the layer is given numbers that are not finite")
    diagonal = hessian.diagonal()
    mean = float(diagonal.mean()) or 1.0
    damping = DAMPING
    while True:
        damped = hessian.clone()
        damped.diagonal().add_(damping * mean)
        lower, failed = torch.linalg.cholesky_ex(damped)
        if not int(failed):
            factor: torch.Tensor
            factor, failed = torch.linalg.cholesky_ex(torch.cholesky_inverse(lower), upper=True)
            if not int(failed):
                return factor
        if damping >= _MOST_DAMPING:
            raise ValueError("the products of what the layer is given can't be inverted")
        damping *= 10


def find_layers(model: nn.Module, count: int) -> nn.ModuleList:
    """Return the model's layers: the outermost list of ``count`` modules.

    :raises ValueError: there is none.
    """
    for module in model.modules():
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return module
    raise ValueError(f"the model has no list of {count} layers")


@dataclass(slots=True)
class _Calls:
    """What a layer was called with for each row, besides the hidden states."""

    others: list[tuple[tuple[Any, ...], dict[str, Any]]] = field(default_factory=list)


@torch.no_grad()
def quantize_layers(
    model: Any,  # noqa: ANN401
    layers: nn.ModuleList,
    rows: Sequence[Sequence[int]],
    group: int,
    check: Callable[[], None],
) -> Iterator[tuple[str, Rounded]]:
    """Round every linear layer within ``layers`` of ``model`` in place, one layer after the other: each is given what the rounded ones
    before it say. Yields the name in ``model`` and the numbers of each, on the processor.

    Holds the hidden states of all ``rows``, and the Hessians of one layer at a time: four bytes times the square of its inputs for each
    linear layer.

    :param rows: token ids that the Hessians are taken from.
    :param check: called before each layer; raises where the run is to end.
    """
    hidden, calls = _record_calls(model, layers, rows)
    names = {id(module): name for name, module in model.named_modules()}
    for layer, call in zip(layers, calls, strict=True):
        check()
        linear = [module for module in layer.modules() if isinstance(module, nn.Linear)]
        with _gather_hessians(linear) as hessians:
            _run(layer, hidden, call)
        for module in linear:
            name = names[id(module)]
            hessian = hessians.pop(id(module), None)
            if hessian is None:
                continue  # no row came by: left as it is
            try:
                rounded = round_weight(module.weight.data, hessian, group)
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from error
            module.weight.data.copy_(rounded.restore())
            yield name, Rounded(rounded.levels.cpu(), rounded.scale.cpu())
        hidden = _run(layer, hidden, call)


def _record_calls(
    model: Any,  # noqa: ANN401
    layers: nn.ModuleList,
    rows: Sequence[Sequence[int]],
) -> tuple[list[torch.Tensor], list[_Calls]]:
    """Return what the first layer is given for each row, and what else every layer is called with: masks and positions."""
    device = next(model.parameters()).device
    hidden: list[torch.Tensor] = []
    calls = [_Calls() for _ in layers]

    def note(number: int) -> Callable[..., None]:
        def hook(_: nn.Module, args: tuple[Any, ...], options: dict[str, Any]) -> None:
            if number == 0:
                hidden.append((args[0] if args else options["hidden_states"]).detach())
            kept = {name: value for name, value in options.items() if name != "hidden_states"}
            calls[number].others.append((args[1:], kept))

        return hook

    handles = [layer.register_forward_pre_hook(note(number), with_kwargs=True) for number, layer in enumerate(layers)]
    try:
        for ids in rows:
            model(input_ids=torch.tensor([list(ids)], device=device), use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    return hidden, calls


def _run(layer: nn.Module, hidden: Sequence[torch.Tensor], calls: _Calls) -> list[torch.Tensor]:
    outputs = [layer(each, *args, **options) for each, (args, options) in zip(hidden, calls.others, strict=True)]
    return [output[0] if isinstance(output, tuple) else output for output in outputs]


@contextmanager
def _gather_hessians(modules: Sequence[nn.Linear]) -> Iterator[dict[int, torch.Tensor]]:
    """Sum up, for as long as the block runs, the outer products of what each module is given."""
    sums: dict[int, torch.Tensor] = {}

    def hook(module: nn.Module, args: tuple[Any, ...]) -> None:
        rows = args[0].detach().reshape(-1, args[0].shape[-1]).to(torch.float32)
        if id(module) in sums:
            sums[id(module)].addmm_(rows.T, rows)
        else:
            sums[id(module)] = rows.T @ rows

    handles = [module.register_forward_pre_hook(hook) for module in modules]
    try:
        yield sums
    finally:
        for handle in handles:
            handle.remove()
