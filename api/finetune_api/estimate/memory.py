"""The memory of a training step, term by term.

The coefficients count what PyTorch's autograd keeps for the backward pass of a decoder layer as transformers computes it, with TRL's loss
over tiles and PEFT's LoRA: see each comment. Sources: QLoRA (arXiv 2305.14314) for the quantised weights; the rest was derived from the
saved tensors and is held to PyTorch's tracking by ``benchmarks/estimate``.
"""

import re
from dataclasses import dataclass
from typing import Final

from finetune_api.estimate.shape import Linear, ModelShape, ShapeUnknown
from finetune_api.estimate.terms import Term
from finetune_api.spec import FineTuneJobSpec

BLOCK: Final = 64
"""Weights that share one quantisation constant (bitsandbytes' default)."""
DOUBLE_BLOCK: Final = 256
"""Constants that share one constant of the second quantisation."""
TILE_TOKENS: Final = 4096
TILE_VOCABULARY: Final = 32_768
"""TRL computes the loss over tiles of so many tokens by so much of the vocabulary."""
STATE_BLOCK: Final = 256
"""Numbers of an 8-bit optimizer state that share one constant."""
SMALL_STATE: Final = 4096
"""Tensors with fewer numbers keep a 32-bit state."""
CONTEXT_BYTES: Final = 600 * 2**20
"""CUDA context and loaded kernels: outside PyTorch's allocator. Assumed, by what recent drivers show."""
SLACK: Final = 0.04
"""Memory that the allocator holds beyond what is used, as a share. Assumed: expandable segments keep it small."""

_WIDTHS: Final = {"bfloat16": 2, "float16": 2, "float32": 4}


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a run needs on one GPU."""

    terms: tuple[Term, ...]
    notes: tuple[str, ...] = ()
    """What the estimate is unsure of."""

    @property
    def allocated_bytes(self) -> int:
        """Peak of what PyTorch's allocator gives out: ``torch.cuda.max_memory_allocated``."""
        return sum(term.size_bytes for term in self.terms if term.kind != "assumed")

    @property
    def total_bytes(self) -> int:
        """What the GPU must have: the allocator's peak, its slack, and the CUDA context."""
        return sum(term.size_bytes for term in self.terms)


def compute_estimate(shape: ModelShape, spec: FineTuneJobSpec) -> Estimate:
    """Return the memory of one GPU that the run ``spec`` on a base of ``shape`` needs.

    :raises ShapeUnknown: the adapter or the objective is not one that can be estimated.
    """
    _check(spec)
    training, method = spec.training, spec.method
    width = _WIDTHS[method.quantization.compute_dtype]
    quantised = method.quantization.type != "none"
    adapted = _find_adapted(shape, spec)
    adapter = shape.layers * sum(method.adapter.r * (linear.inputs + linear.outputs) for linear in adapted)
    adapter_width = 2 if quantised else 4
    # A row of the batch is what attends: packed sequences are laid out in one row, whatever the batch size.
    rows = 1 if training.packing else training.per_device_batch_size
    length = training.max_length * (training.per_device_batch_size if training.packing else 1)
    tokens = rows * length
    held = [
        *_base_terms(shape, spec, width),
        Term("adapter", "held", adapter * adapter_width, f"{adapter:,} numbers of {adapter_width} bytes"),
        Term("gradients", "held", adapter * adapter_width, "one for each number of the adapter"),
        _optimizer_term(shape, spec, adapted, adapter),
    ]
    moving = _moving_terms(shape, spec, adapted, tokens, length, width)
    assumed = [
        Term("CUDA context", "assumed", CONTEXT_BYTES, "assumed"),
        Term("allocator's slack", "assumed", int(SLACK * sum(term.size_bytes for term in (*held, *moving))), f"assumed: {SLACK:.0%}"),
    ]
    return Estimate(tuple(term for term in (*held, *moving, *assumed) if term.size_bytes), _notes(shape, spec))


def _check(spec: FineTuneJobSpec) -> None:
    adapter, objective = str(spec.method.adapter.type), str(spec.method.objective)
    if adapter != "lora":
        raise ShapeUnknown(f"method.adapter.type {adapter} can't be estimated yet; only lora can")
    if objective != "sft":
        raise ShapeUnknown(f"method.objective {objective} can't be estimated yet; only sft can")


def _find_adapted(shape: ModelShape, spec: FineTuneJobSpec) -> list[Linear]:
    """Return the linear layers of a decoder layer that get an adapter."""
    targets = spec.method.adapter.resolved_target_modules
    if targets == "all-linear":
        return list(shape.linears)
    if isinstance(targets, str):
        expression = re.compile(targets)
        parents = {"attention": "self_attn", "output": "self_attn", "feed": "mlp", "down": "mlp"}
        return [each for each in shape.linears if expression.fullmatch(f"model.layers.0.{parents[each.slot]}.{each.name}")]
    return [each for each in shape.linears if any(each.name == target.rpartition(".")[2] for target in targets)]


def _base_terms(shape: ModelShape, spec: FineTuneJobSpec, width: int) -> list[Term]:
    quantization = spec.method.quantization
    weights = shape.linear_parameters
    plain = shape.embedding_parameters + shape.other_parameters + shape.expert_parameters
    what = "embedding, head, norms" + (", experts (fused, which bitsandbytes leaves alone)" if shape.experts else "")
    rest = Term("base, not quantised", "held", plain * width, f"{what}: {plain:,} numbers of {width} bytes")
    if quantization.type == "none":
        return [Term("base", "held", weights * width, f"{weights:,} weights of {width} bytes"), rest]
    if quantization.type == "int8":
        rows = shape.layers * sum(linear.outputs for linear in shape.linears)
        return [
            Term("base in 8 bits", "held", weights, f"{weights:,} weights"),
            Term("quantisation constants", "held", 4 * rows, "one of 4 bytes to a row"),
            rest,
        ]
    blocks = weights // BLOCK
    if quantization.double_quant:
        size, why = blocks + 4 * (blocks // DOUBLE_BLOCK), f"8 bits for {BLOCK} weights, and 32 for {DOUBLE_BLOCK} of these"
    else:
        size, why = 4 * blocks, f"32 bits for {BLOCK} weights"
    return [
        Term("base in 4 bits", "held", weights // 2, f"{weights:,} weights"),
        Term("quantisation constants", "held", size, why),
        rest,
    ]


def _optimizer_term(shape: ModelShape, spec: FineTuneJobSpec, adapted: list[Linear], adapter: int) -> Term:
    name = spec.training.optimizer
    moments = 1 if "lion" in name else 0 if name == "sgd" else 2
    if name == "adafactor":  # a row and a column of each matrix instead of the matrix
        size = 4 * shape.layers * sum(2 * spec.method.adapter.r + linear.inputs + linear.outputs for linear in adapted)
        return Term("optimizer", "held", size, "adafactor: a row and a column of each matrix, in 32 bits")
    if "8bit" in name:
        tensors = [spec.method.adapter.r * side for linear in adapted for side in (linear.inputs, linear.outputs)]
        large = shape.layers * sum(count for count in tensors if count >= SMALL_STATE)
        size = moments * (large + 4 * large // STATE_BLOCK + 4 * (adapter - large))
        why = f"{moments} states of 8 bits for each number of the adapter"
    else:
        width = 4 if "32bit" in name or spec.method.quantization.type == "none" else 2  # torch's own have the parameter's type
        size, why = moments * width * adapter, f"{moments} states of {8 * width} bits for each number of the adapter"
    paged = "; may be paged out to the host" if name.startswith("paged") else ""
    return Term("optimizer", "held", size, why + paged)


def _moving_terms(shape: ModelShape, spec: FineTuneJobSpec, adapted: list[Linear], tokens: int, length: int, width: int) -> list[Term]:
    """Return what is there at the peak of a step: the larger of its two high points, the loss and the backward pass of a layer."""
    layer = _saved_by_layer(shape, spec, adapted, length, width) * tokens
    residual = width * shape.hidden * tokens
    mask = length * tokens
    quantised = spec.method.quantization.type != "none"
    tile = min(tokens, TILE_TOKENS) * TILE_VOCABULARY * width
    if spec.training.gradient_checkpointing:
        kept = Term("checkpointed activations", "moving", shape.layers * residual, f"{shape.layers} layers' inputs of {tokens:,} tokens")
        # The last layer's output and the final norm in 32 bits, the loss's gradient in 32 bits; the head's tile.
        at_loss = 12 * shape.hidden * tokens * width // 2 + tile
        in_layer = layer + _passing(shape, tokens, width, quantised=quantised)
    else:
        kept = Term("activations", "moving", shape.layers * layer, f"{shape.layers} layers of {tokens:,} tokens")
        at_loss = 5 * shape.hidden * tokens * width // 2 + tile
        in_layer = _passing(shape, tokens, width, quantised=quantised) - residual * 3
    terms = [kept, Term("attention mask", "moving", mask, f"one byte for each pair of the {length:,} tokens of a row")]
    if at_loss >= in_layer:
        return [
            *terms,
            Term("loss", "moving", at_loss, f"tiles of {TILE_TOKENS} tokens by {TILE_VOCABULARY:,} of the vocabulary, and gradients"),
        ]
    words = "one layer, recomputed, and gradients on their way" if spec.training.gradient_checkpointing else "gradients on their way"
    return [*terms, Term("backward pass", "moving", in_layer, words)]


def _saved_by_layer(shape: ModelShape, spec: FineTuneJobSpec, adapted: list[Linear], length: int, width: int) -> int:
    """Return the bytes a token that autograd keeps for the backward pass of one layer."""
    adapter = spec.method.adapter
    size = 2 * 4 * shape.hidden + 2 * 4  # both norms keep their input in 32 bits, and the root of each token
    size += 4 * width * shape.query + 4 * shape.heads  # attention: queries; keys and values, repeated for each head; output; log-sum
    size += width * length  # the mask in the attention's type
    if shape.head_norms:
        size += 4 * (shape.query + shape.key_value) + 4 * (shape.heads + shape.kv_heads)
    active = shape.experts_per_token or 1
    size += active * 3 * width * shape.intermediate  # gate, its activation, up
    inputs: dict[str, int] = {}
    for linear in adapted:
        size += width * adapter.r
        if adapter.dropout:
            size += linear.inputs * (width + 1)  # the input after dropout, and dropout's mask
        else:
            inputs[linear.slot] = linear.inputs  # one tensor for all that read it
    inputs.pop("output", None)  # attention keeps it already
    return size + width * sum(inputs.values())


def _passing(shape: ModelShape, tokens: int, width: int, *, quantised: bool) -> int:
    """Return the bytes of gradients and scratch on their way through one layer's backward pass."""
    gradients = tokens * (10 * shape.hidden + 2 * shape.intermediate) * width // 2
    if not quantised:  # the adapter is in 32 bits there, and so are its input and that input's gradient
        return gradients + tokens * 2 * 4 * shape.intermediate
    return gradients + width * max((linear.weights for linear in shape.linears), default=0)  # one matrix, dequantised


def _notes(shape: ModelShape, spec: FineTuneJobSpec) -> tuple[str, ...]:
    notes: list[str] = []
    if shape.experts:
        notes.append("models with experts were not held against a measurement: how tokens spread over experts moves the peak")
    if spec.method.quantization.type == "int8":
        notes.append("int8 was not held against a measurement: outlier columns take memory of their own")
    if spec.method.adapter.dora:
        notes.append("DoRA's norms of each weight take memory of their own, which is not counted")
    if spec.resources.gpus * spec.resources.nodes > 1:
        held = (
            "each holds the whole base model"
            if spec.training.sharding == "none"
            else "training.sharding, by which each needs less, is left out"
        )
        notes.append(f"counted for one GPU of several: {held}")
    return tuple(notes)
