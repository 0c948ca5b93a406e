"""What is trained, tensor by tensor: weights, gradients and optimizer states follow from it."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from finetune_api.estimate.shape import Linear, ModelShape
from finetune_api.spec import FineTuneJobSpec
from finetune_api.spec.adapter import LAYER_TYPES

STATE_BLOCK: Final = 256
"""Numbers of an 8-bit optimizer state that share one constant."""
SMALL_STATE: Final = 4096
"""Tensors with fewer numbers keep a 32-bit state."""
_LSTM_LAYERS: Final = 2
"""Layers of P-tuning's LSTM (PEFT's default)."""


@dataclass(frozen=True, slots=True)
class Matrices:
    """Trained matrices of one size."""

    count: int
    rows: int
    columns: int

    @property
    def numbers(self) -> int:
        """Numbers in one of them."""
        return self.rows * self.columns


@dataclass(frozen=True, slots=True)
class Trained:
    """All that an optimizer changes."""

    matrices: tuple[Matrices, ...]
    width: int
    """Bytes of a number, and of its gradient."""
    what: str

    @property
    def numbers(self) -> int:
        """Trained numbers, of all matrices."""
        return sum(each.count * each.numbers for each in self.matrices)

    @property
    def size_bytes(self) -> int:
        """Bytes of the trained numbers; their gradients take as many again."""
        return self.width * self.numbers


def find_adapted(shape: ModelShape, spec: FineTuneJobSpec) -> list[Linear]:
    """Return the linear layers of a decoder layer that get an adapter of their own."""
    if spec.method.adapter.type not in LAYER_TYPES:
        return []
    targets = spec.method.adapter.resolved_target_modules
    if targets == "all-linear":
        return list(shape.linears)
    if isinstance(targets, str):
        expression = re.compile(targets)
        parents = {"attention": "self_attn", "output": "self_attn", "feed": "mlp", "down": "mlp"}
        return [each for each in shape.linears if expression.fullmatch(f"model.layers.0.{parents[each.slot]}.{each.name}")]
    return [each for each in shape.linears if any(each.name == target.rpartition(".")[2] for target in targets)]


def build_trained(shape: ModelShape, spec: FineTuneJobSpec) -> Trained:
    """Return what the run ``spec`` trains on a base of ``shape``."""
    adapter = spec.method.adapter
    # TRL halves LoRA on a base of bitsandbytes; everything else is held in 32 bits (see AdaptedModel.keep_small_steps).
    width = 2 if adapter.type == "lora" and spec.method.quantization.type not in ("none", "fp8") else 4
    matrices = list(_list_matrices(shape, spec))
    if spec.method.objective == "reward":
        matrices.append(Matrices(1, 1, shape.hidden))
    words = "whole model" if adapter.type == "none" else "adapter"
    return Trained(tuple(matrices), width, words)


def _list_matrices(shape: ModelShape, spec: FineTuneJobSpec) -> Iterator[Matrices]:
    adapter, layers = spec.method.adapter, shape.layers
    adapted = find_adapted(shape, spec)
    tokens, hidden = adapter.resolved_virtual_tokens, shape.hidden
    match adapter.type:
        case "lora":
            for linear in adapted:
                yield Matrices(layers, adapter.r, linear.inputs)
                yield Matrices(layers, linear.outputs, adapter.r)
                if adapter.dora:
                    yield Matrices(layers, 1, linear.outputs)
        case "adalora":
            rank = adapter.resolved_init_r
            for linear in adapted:
                yield Matrices(layers, rank, linear.inputs)
                yield Matrices(layers, linear.outputs, rank)
                yield Matrices(layers, rank, 1)
        case "ia3":
            for linear in adapted:
                yield Matrices(layers, 1, linear.inputs if is_scaled_before(linear) else linear.outputs)
        case "prompt-tuning":
            yield Matrices(1, tokens, hidden)
        case "prefix-tuning":
            yield Matrices(1, tokens, 2 * layers * shape.key_value)
        case "p-tuning":
            yield Matrices(1, tokens, hidden)
            if adapter.encoder == "lstm":
                inputs = hidden
                for _ in range(_LSTM_LAYERS):
                    yield Matrices(2, 4 * hidden, inputs)
                    yield Matrices(2, 4 * hidden, hidden)
                    yield Matrices(4, 4 * hidden, 1)
                    inputs = 2 * hidden
                yield Matrices(1, 2 * hidden, 2 * hidden)
                yield Matrices(1, 2 * hidden, 1)
                yield Matrices(1, hidden, 2 * hidden)
                yield Matrices(1, hidden, 1)
            else:
                yield Matrices(3, hidden, hidden)
                yield Matrices(3, hidden, 1)
        case _:
            yield from _list_weights(shape, spec)


def _list_weights(shape: ModelShape, spec: FineTuneJobSpec) -> Iterator[Matrices]:
    """Yield the whole model's weights."""
    for linear in shape.linears:
        yield Matrices(shape.layers, linear.outputs, linear.inputs)
        if linear.bias:
            yield Matrices(shape.layers, linear.outputs, 1)
    if shape.experts:
        yield Matrices(shape.layers, shape.experts * 2 * shape.intermediate, shape.hidden)
        yield Matrices(shape.layers, shape.experts * shape.hidden, shape.intermediate)
        yield Matrices(shape.layers, shape.experts, shape.hidden)
    if shape.head_norms:
        yield Matrices(2 * shape.layers, shape.head_dim, 1)
    yield Matrices(2 * shape.layers + 1, shape.hidden, 1)
    yield Matrices(1 if shape.tied or spec.method.objective == "reward" else 2, shape.vocabulary, shape.hidden)


def is_scaled_before(linear: Linear) -> bool:
    """Return whether (IA)3 scales what goes into ``linear``; what comes out of all others."""
    return linear.slot == "down" and linear.inputs > linear.outputs


def compute_state_bytes(trained: Trained, optimizer: str) -> tuple[int, str]:
    """Return the bytes of the optimizer's states, and what they are made of."""
    moments = 1 if "lion" in optimizer else 0 if optimizer == "sgd" else 2
    if optimizer == "adafactor":
        size = sum(
            4 * each.count * ((each.rows + each.columns) if min(each.rows, each.columns) > 1 else each.numbers) for each in trained.matrices
        )
        return size, "adafactor: a row and a column of each matrix, in 32 bits"
    if "8bit" in optimizer:
        large = sum(each.count * each.numbers for each in trained.matrices if each.numbers >= SMALL_STATE)
        size = moments * (large + 4 * large // STATE_BLOCK + 4 * (trained.numbers - large))
        words = f"{moments} states of 8 bits for each trained number"
    else:
        width = 4 if "32bit" in optimizer else trained.width  # torch's own have the parameter's type
        size, words = moments * width * trained.numbers, f"{moments} states of {8 * width} bits for each trained number"
    return size, words + ("; may be paged out to the host" if optimizer.startswith("paged") else "")
