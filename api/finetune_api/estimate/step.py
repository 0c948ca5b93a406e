"""What is there at the peak of a training step: what autograd keeps, and the larger of the step's two high points. These are the loss, and
the backward pass of a layer.

The coefficients count what PyTorch's autograd keeps for the backward pass of a decoder layer as transformers computes it, with the
adapters of PEFT and the losses of TRL: see each comment. They were derived from the saved tensors, and ``benchmarks/estimate`` holds
them to PyTorch's tracking.
"""

from dataclasses import dataclass
from typing import Final

from finetune_api.estimate.division import Division, build_division, divides
from finetune_api.estimate.shape import Linear, ModelShape
from finetune_api.estimate.terms import Term
from finetune_api.estimate.trained import build_trained, find_adapted, is_scaled_before
from finetune_api.spec import FineTuneJobSpec
from finetune_api.spec.objective import PACKING_OBJECTIVES

TILE_TOKENS: Final = 4096
TILE_VOCABULARY: Final = 32_768
"""TRL computes the loss over tiles of so many tokens by so much of the vocabulary."""
WIDTHS: Final = {"bfloat16": 2, "float16": 2, "float32": 4}
"""Bytes of a number, by type."""
PAIR_OBJECTIVES: Final = ("dpo", "orpo", "reward")
"""Objectives whose batch holds both answers of each example."""
OFFLOADED_LATE: Final = 4
"""Layers whose inputs are still on the GPU where activations are held in the node's memory: TRL lets go of a tensor when the fifth after it
has come (``max_fwd_stash_size``)."""
_ORPO_BYTES: Final = 18
"""Bytes of a logit at ORPO's peak, most in 32 bits: the logits, three gradients of them on their way to one another, and half of them again
as log-probabilities of the chosen answers."""
_DISTILL_BYTES: Final = 36
"""Bytes of a logit at the peak of distillation, all in 32 bits: student's and teacher's logits, both over the temperature, both as
log-probabilities, the divergence and a copy of it, and what of it is learnt."""


@dataclass(frozen=True, slots=True)
class Batch:
    """What goes through the model at once."""

    rows: int
    length: int
    """Tokens of a row, learnt ones before the text included."""

    @property
    def tokens(self) -> int:
        """Tokens of all rows."""
        return self.rows * self.length


def build_batch(spec: FineTuneJobSpec) -> Batch:
    """Return the micro-batch at its fullest."""
    training, objective = spec.training, spec.method.objective
    rows, length = training.per_device_batch_size, training.max_length
    if training.packing and objective in PACKING_OBJECTIVES:  # packed sequences are laid out in one row, whatever the batch size
        rows, length = 1, rows * length
    if objective in PAIR_OBJECTIVES:
        rows *= 2
    before_text = spec.method.adapter.resolved_virtual_tokens if spec.method.adapter.type != "prefix-tuning" else 0
    return Batch(rows, length + before_text)


def build_moving_terms(shape: ModelShape, spec: FineTuneJobSpec) -> list[Term]:
    """Return what a step adds to what is held."""
    batch, width = build_batch(spec), WIDTHS[spec.method.quantization.compute_dtype]
    tokens, checkpointing = batch.tokens, spec.training.gradient_checkpointing
    whole = spec.method.adapter.type == "none"
    division = build_division(shape, spec)
    casting = _casts_weights(spec)
    layer = _saved_by_layer(shape, spec, batch.length, width, casting=casting) * tokens
    # Where the weights are in 32 bits, so is the sum that runs through the layers.
    residual = (4 if casting else width) * shape.hidden * tokens
    passing = _passing(shape, spec, tokens, width)
    if checkpointing and spec.training.activation_offloading:
        layers = min(shape.layers, OFFLOADED_LATE)
        words = f"{layers} layers' inputs of {tokens:,} tokens, on their way to the node's memory, where the others are"
        kept = Term("checkpointed activations", "moving", layers * residual, words)
        in_layer = layer + passing
    elif checkpointing:
        kept = Term("checkpointed activations", "moving", shape.layers * residual, f"{shape.layers} layers' inputs of {tokens:,} tokens")
        in_layer = layer + passing
    else:
        kept = Term("activations", "moving", shape.layers * layer, f"{shape.layers} layers of {tokens:,} tokens")
        in_layer = passing - residual * 3
    keys = batch.length + (spec.method.adapter.resolved_virtual_tokens if spec.method.adapter.type == "prefix-tuning" else 0)
    mask = Term("attention mask", "moving", batch.tokens * keys, f"one byte for each pair of the {batch.length:,} tokens of a row")
    terms = [kept, mask]
    casts = 0
    if casting:
        casts = width * (shape.linear_parameters + shape.expert_parameters)
    if casting and not checkpointing:
        terms.append(Term("weights in 16 bits", "moving", casts, "copies for multiplication, there until the backward pass"))
        casts = 0
    if spec.method.adapter.type == "p-tuning" and width < 4:
        network = build_trained(shape, spec).numbers - spec.method.adapter.resolved_virtual_tokens * shape.hidden
        words = "a copy of P-tuning's for multiplication, there until its backward pass"
        terms.append(Term("network in 16 bits", "moving", width * network, words))
    loss = _loss_term(shape, spec, batch, width, casts)
    if division is not None:
        if whole:  # the weights' gradients come as what was kept for them goes; at the end they are there with little else
            weights = width * sum(linear.weights for linear in shape.linears)
            in_layer = max(in_layer - weights, weights + 4 * residual)
        return _choose_moment(shape, spec, division, terms, loss, in_layer)
    words = "one layer, recomputed, and gradients on their way" if checkpointing else "gradients on their way"
    terms.append(loss if loss.size_bytes >= in_layer else Term("backward pass", "moving", in_layer, words))
    if whole and shape.tied:  # one matrix has two gradients, which are added up at the very end, when the activations are gone
        end = 3 * 4 * shape.vocabulary * shape.hidden
        if end > sum(term.size_bytes for term in terms):
            return [Term("embedding's gradients", "moving", end, "the head's, the embedding's and their sum, in 32 bits")]
    return terms


def _choose_moment(shape: ModelShape, spec: FineTuneJobSpec, division: Division, kept: list[Term], loss: Term, in_layer: int) -> list[Term]:
    """Return what is there at the highest moment of a step of a model that is divided."""
    root, layer, width = division.root_bytes, division.layer_bytes, WIDTHS[spec.method.quantization.compute_dtype]
    gathered = "embedding, head and last norm, for the whole of a pass"
    # Gradients of what is gathered are in its type, and go to the other GPUs in 32 bits.
    whole, wide = spec.method.adapter.type == "none", 4 // width
    head = width * shape.vocabulary * shape.hidden if whole and spec.method.objective != "reward" else 0
    stays = division.kept_layers * layer
    back = Term("gathered weights", "moving", root + 2 * layer, f"{gathered}; one layer, and the next on its way")
    last, sent = f"{gathered}; the last layer, on its way", wide * layer
    if stays:
        last = f"{gathered}; {division.kept_layers} layers, until the backward pass is done with them"
        back = Term("gathered weights", "moving", root + stays, last)
        sent -= layer  # which is given back before its gradients go
    moments = [
        [
            *kept,
            loss,
            Term("gathered weights", "moving", root + (stays or layer), last),
            *([Term("head's gradient", "moving", head, "once more, in the type of the gathered head")] if head and width < 4 else []),
        ],
        [*kept, Term("gathered weights", "moving", 2 * root, "embedding, head and last norm: as they come and as they are used")],
        [
            *kept,
            Term("backward pass", "moving", in_layer, "one layer, recomputed, and gradients on their way"),
            back,
            *([Term("gathered gradients", "moving", head + sent, "the head's; a layer's in 32 bits")] if whole else []),
        ],
    ]
    if whole:
        # One matrix has two gradients, which are added up while the first layer's are on their way; then they go on theirs.
        adding, sending = (4 if shape.tied else 2) * root + wide * layer, (1 + wide) * root
        moments.append([Term("embedding's gradients", "moving", max(adding, sending), "and the head's, gathered, and in 32 bits")])
    else:
        numbers = build_trained(shape, spec).numbers
        moments.append([Term("average of gradients", "moving", 2 * 4 * numbers, "the adapter's in 32 bits, and all of them in a row")])
    return max(moments, key=lambda terms: sum(term.size_bytes for term in terms))


def _casts_weights(spec: FineTuneJobSpec) -> bool:
    """Return whether weights are held in 32 bits and multiplied as copies in 16. Those that are divided are gathered in 16."""
    narrow = WIDTHS[spec.method.quantization.compute_dtype] < WIDTHS["float32"]
    return narrow and spec.method.adapter.type == "none" and not divides(spec)


def _loss_term(shape: ModelShape, spec: FineTuneJobSpec, batch: Batch, width: int, casts: int) -> Term:
    """Return what is there while the loss is computed, beside what is kept for the layers."""
    tokens, objective = batch.tokens, spec.method.objective
    # With checkpointing, the last layer's output and the final norm in 32 bits, and the loss's gradient in 32 bits.
    around = (12 if spec.training.gradient_checkpointing else 5) * shape.hidden * tokens * width // 2
    copies = ", and copies of the weights in 16 bits" if casts else ""
    if objective == "reward":
        return Term("loss", "moving", around + casts, f"one score for each token, and gradients{copies}")
    if objective in ("orpo", "distill"):
        each = _ORPO_BYTES if objective == "orpo" else _DISTILL_BYTES
        size = each * tokens * shape.vocabulary + casts
        whose = "the model's" if objective == "orpo" else "the model's and the teacher's"
        return Term(
            "logits", "moving", size, f"{whose} for {tokens:,} tokens by {shape.vocabulary:,} of the vocabulary, {each} bytes each{copies}"
        )
    tile = min(tokens, TILE_TOKENS) * TILE_VOCABULARY * width
    words = f"tiles of {TILE_TOKENS} tokens by {TILE_VOCABULARY:,} of the vocabulary, and gradients{copies}"
    if spec.method.adapter.type == "none":
        if _casts_weights(spec):
            tile += min(TILE_VOCABULARY, shape.vocabulary) * shape.hidden * width  # the head's, of a tile
        tile += max(casts, 4 * shape.vocabulary * shape.hidden)  # copies go with the forward pass; after it comes the head's gradient
    return Term("loss", "moving", around + tile, words)


def _saved_by_layer(shape: ModelShape, spec: FineTuneJobSpec, length: int, width: int, *, casting: bool) -> int:
    """Return the bytes a token that autograd keeps for the backward pass of one layer.

    :param casting: weights in 32 bits are multiplied as copies in 16.
    """
    adapter = spec.method.adapter
    whole = adapter.type == "none"
    size = 2 * 4 * shape.hidden + 2 * 4  # both norms keep their input in 32 bits, and the root of each token
    size += 4 * width * shape.query + 4 * shape.heads  # attention: queries; keys and values, repeated for each head; output; log-sum
    size += width * length  # the mask in the attention's type
    if shape.head_norms:
        size += 4 * (shape.query + shape.key_value) + 4 * (shape.heads + shape.kv_heads)
    active = shape.experts_per_token or 1
    size += active * 3 * width * shape.intermediate  # gate, its activation, up
    if whole and not casting:
        size += 2 * width * shape.hidden  # both norms' results before their weights, for the weights' gradients
        return size + width * (2 * shape.hidden + shape.intermediate)  # what is multiplied, one tensor for all that read it
    if whole:
        size += 2 * 4 * shape.hidden  # both norms' results before their weights, for the weights' gradients
        # each layer's own copy of its input in 16 bits, for its weights' gradients
        inputs = sum(linear.inputs for linear in shape.linears if linear.slot != "output")
        return size + width * inputs
    adapted = find_adapted(shape, spec)
    if adapter.type == "ia3":  # what is scaled
        return size + sum(width * (linear.inputs if is_scaled_before(linear) else linear.outputs) for linear in adapted)
    return size + _saved_by_updates(spec, adapted, width)


def _saved_by_updates(spec: FineTuneJobSpec, adapted: list[Linear], width: int) -> int:
    """Return the bytes a token that updates of low rank keep in one layer."""
    adapter = spec.method.adapter
    rank = adapter.resolved_init_r if adapter.type == "adalora" else adapter.r
    size = 0
    inputs: dict[str, int] = {}
    for linear in adapted:
        size += width * rank
        if adapter.dropout:
            size += linear.inputs * (width + 1)  # the input after dropout, and dropout's mask
        else:
            inputs[linear.slot] = linear.inputs  # one tensor for all that read it
        if adapter.dora:
            size += 2 * width * linear.outputs  # both results, for the magnitude's gradient
    inputs.pop("output", None)  # attention keeps it already
    return size + width * sum(inputs.values())


def _passing(shape: ModelShape, spec: FineTuneJobSpec, tokens: int, width: int) -> int:
    """Return the bytes of gradients and scratch on their way through one layer's backward pass."""
    adapter, kind = spec.method.adapter, spec.method.quantization.type
    quantised = kind not in ("none", "fp8")  # by bitsandbytes
    gradients = tokens * (10 * shape.hidden + 2 * shape.intermediate) * width // 2
    if adapter.type == "none":
        return gradients + sum(linear.weights for linear in shape.linears) * width
    if adapter.dora:  # for the norm of a weight with its update: both, their sum, and the unit matrix that the update is made from
        gradients += width * max((3 * linear.weights + linear.inputs**2 for linear in find_adapted(shape, spec)), default=0)
    if adapter.type == "ia3":  # what is scaled is in 32 bits; bitsandbytes' layers want a copy of it
        gradients += tokens * shape.intermediate * (14 if quantised else 3) // 2
    if adapter.type == "adalora":  # the update is divided by its rank in 32 bits
        gradients += tokens * shape.intermediate * (3 if quantised else 1)
    largest = max((linear.weights for linear in shape.linears), default=0)
    if not quantised:  # the adapter is in 32 bits there, and so are its input and that input's gradient
        gradients += tokens * 2 * 4 * shape.intermediate
        if kind == "fp8":  # one matrix, turned
            return gradients + largest
        # one matrix, restored; while that is made, its levels in 8 bits before and after the zero is taken off
        return gradients + (width + 2) * largest if shape.packing is not None else gradients
    return gradients + width * largest  # one matrix, dequantised
