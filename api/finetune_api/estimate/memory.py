"""The memory of a run on one GPU, term by term.

Sources: QLoRA (arXiv 2305.14314) for the quantised weights; the rest was derived from the tensors themselves, and ``benchmarks/estimate``
holds it to PyTorch's tracking.
"""

from dataclasses import dataclass
from typing import Final

from finetune_api.estimate.division import Division, build_division, divides
from finetune_api.estimate.generation import build_answer_terms, compute_judging_bytes
from finetune_api.estimate.node import compute_node_bytes
from finetune_api.estimate.shape import ModelShape, Packing, ShapeUnknown
from finetune_api.estimate.step import WIDTHS, build_moving_terms
from finetune_api.estimate.terms import Term
from finetune_api.estimate.trained import build_trained, compute_state_bytes
from finetune_api.spec import FineTuneJobSpec

BLOCK: Final = 64
"""Weights that share one quantisation constant (bitsandbytes' default)."""
DOUBLE_BLOCK: Final = 256
"""Constants that share one constant of the second quantisation."""
CONSTANTS: Final = "quantisation constants"
CONTEXT_BYTES: Final = 600 * 2**20
"""CUDA context and loaded kernels: outside PyTorch's allocator. Assumed, by what recent drivers show."""
SLACK: Final = 0.04
"""Memory that the allocator holds beyond what is used, as a share. Assumed: expandable segments keep it small."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a run needs on one GPU."""

    terms: tuple[Term, ...]
    notes: tuple[str, ...] = ()
    """What the estimate is unsure of, or leaves out."""
    node_bytes: int = 0
    """What each pod needs of its node's memory for the parts of a divided model that lie there, beside all else."""

    @property
    def allocated_bytes(self) -> int:
        """Peak of what PyTorch's allocator gives out: ``torch.cuda.max_memory_allocated``."""
        return sum(term.size_bytes for term in self.terms if term.kind != "assumed")

    @property
    def total_bytes(self) -> int:
        """What the GPU must have: the allocator's peak, its slack, and the CUDA context."""
        return sum(term.size_bytes for term in self.terms)


def compute_estimate(shape: ModelShape, spec: FineTuneJobSpec, teacher: ModelShape | None = None) -> Estimate:
    """Return the memory of one GPU that the run ``spec`` on a base of ``shape`` needs.

    :param teacher: shape of the teacher, which the objective ``distill`` needs.
    :raises ShapeUnknown: the run is not one that can be estimated; says why.
    """
    _check(shape, spec, teacher)
    whole = spec.method.adapter.type == "none"
    trained = build_trained(shape, spec)
    states, states_why = compute_state_bytes(trained, spec.training.optimizer)
    division = build_division(shape, spec)
    base = [] if whole else _base_terms(shape, spec)
    learnt = [
        Term(trained.what, "held", trained.size_bytes, f"{trained.numbers:,} numbers of {trained.width} bytes"),
        Term("gradients", "held", trained.size_bytes, "one for each trained number"),
        Term("optimizer", "held", states, states_why),
    ]
    if division is None and spec.resources.gpus * spec.resources.nodes > 1:
        words = "each gradient once more, on its way between the GPUs (DDP)"
        learnt.insert(2, Term("gradients' buckets", "held", trained.size_bytes, words))
    own = [
        *(_divide(base, division) if division is not None else base),
        *(_divide(learnt, division) if division is not None and whole else learnt),
    ]
    divided = [term for term in own if division is not None and term.name != CONSTANTS and (whole or term not in learnt)]
    offloaded = divided if division is not None and division.offloads else []
    held = [
        *(term for term in own if term not in offloaded),
        *([Term(f"teacher: {term.name}", "held", term.size_bytes, term.why) for term in _base_terms(teacher, spec)] if teacher else []),
    ]
    moving = build_moving_terms(shape, spec)
    answering = build_answer_terms(shape, spec)
    if _sum(answering) > _sum(moving):
        moving = answering
    if division is not None and spec.method.quantization.type != "none":
        loading = _sum(base) + trained.size_bytes - _sum(held)
        if loading > _sum(moving):  # gradients and states, which are not there yet, are in what is held
            moving = [Term("loading", "moving", loading, "all of the base, which is quantised on the GPU before it is divided")]
    assumed = [
        Term("CUDA context", "assumed", CONTEXT_BYTES, "assumed"),
        Term("allocator's slack", "assumed", int(SLACK * _sum([*held, *moving])), f"assumed: {SLACK:.0%}"),
    ]
    node = 0
    if offloaded:
        read = 0 if spec.method.quantization.type != "none" else trained.size_bytes if whole else _sum(base)
        node = compute_node_bytes(_sum(offloaded), read, max(trained.size_bytes, states) if whole else 0, spec.resources)
    return Estimate(tuple(term for term in (*held, *moving, *assumed) if term.size_bytes), _notes(shape, spec, _sum(moving), node), node)


def _sum(terms: list[Term]) -> int:
    return sum(term.size_bytes for term in terms)


def _divide(terms: list[Term], division: Division) -> list[Term]:
    """Return what each GPU holds of ``terms``. Quantisation constants are no parameters, and stay whole."""
    return [
        term
        if term.name == CONSTANTS
        else Term(term.name, term.kind, -(-term.size_bytes // division.parts), f"1 of {division.parts} parts: {term.why}")
        for term in terms
    ]


def _check(shape: ModelShape, spec: FineTuneJobSpec, teacher: ModelShape | None) -> None:
    if spec.method.adapter.target_parameters is not None:
        raise ShapeUnknown("not estimated: method.adapter.targetParameters, whose updates are added to the experts' weights themselves")
    if shape.packing is not None and spec.method.quantization.type != "none":
        raise ShapeUnknown("the base is quantised already, and stays so: set method.quantization.type to none")
    if shape.packing is not None and divides(spec):
        raise ShapeUnknown("the base is quantised already, and its packed weights can't be divided (training.sharding)")
    if shape.packing is not None and spec.method.adapter.type == "none":
        raise ShapeUnknown("the base is quantised already: its weights can't be trained (method.adapter.type none)")
    if spec.training.activation_offloading and not spec.training.gradient_checkpointing:
        raise ShapeUnknown("not estimated: training.activationOffloading without gradientCheckpointing, of which some activations stay")
    if spec.method.objective == "distill" and teacher is None:
        raise ShapeUnknown("not estimated: the teacher's shape (method.distill.teacher) is not known")
    if shape.experts and spec.method.adapter.type == "none":
        raise ShapeUnknown("not estimated: full fine-tuning of a model with experts")


def _base_terms(shape: ModelShape, spec: FineTuneJobSpec) -> list[Term]:
    quantization = spec.method.quantization
    width = WIDTHS[quantization.compute_dtype]
    weights = shape.linear_parameters
    plain = shape.embedding_parameters + shape.other_parameters + shape.expert_parameters
    if spec.method.objective == "reward" and not shape.tied:
        plain -= shape.vocabulary * shape.hidden  # it has a score in the place of the head
    what = "embedding, head, norms" + (", experts (fused, which are left alone)" if shape.experts else "")
    rest = Term("base, not quantised", "held", plain * width, f"{what}: {plain:,} numbers of {width} bytes")
    if shape.packing is not None:
        return [*_packed_terms(shape, shape.packing), rest]
    if quantization.type == "none":
        return [Term("base", "held", weights * width, f"{weights:,} weights of {width} bytes"), rest]
    if quantization.type in ("int8", "fp8"):
        rows = shape.layers * sum(linear.outputs for linear in shape.linears)
        return [
            Term("base in FP8" if quantization.type == "fp8" else "base in 8 bits", "held", weights, f"{weights:,} weights"),
            Term(CONSTANTS, "held", 4 * rows, "one of 4 bytes to a row"),
            rest,
        ]
    blocks = weights // BLOCK
    if quantization.double_quant:
        size, why = blocks + 4 * (blocks // DOUBLE_BLOCK), f"8 bits for {BLOCK} weights, and 32 for {DOUBLE_BLOCK} of these"
    else:
        size, why = 4 * blocks, f"32 bits for {BLOCK} weights"
    return [
        Term("base in 4 bits", "held", weights // 2, f"{weights:,} weights"),
        Term(CONSTANTS, "held", size, why),
        rest,
    ]


def _packed_terms(shape: ModelShape, packing: Packing) -> list[Term]:
    """Return what weights take that are packed already: a scale of 2 bytes and a zero, of 1 byte or 4, to a group."""
    groups = shape.layers * sum(linear.outputs * (linear.inputs // packing.group if packing.group else 1) for linear in shape.linears)
    shared, zero = f"{packing.group} weights" if packing.group else "a row", 1 if packing.bits == 4 else 4
    return [
        Term(f"base in {packing.bits} bits", "held", shape.linear_parameters * packing.bits // 8, f"{shape.linear_parameters:,} weights"),
        Term(CONSTANTS, "held", (2 + zero) * groups, f"a scale of 2 bytes and a zero of {zero} for {shared}"),
    ]


def _notes(shape: ModelShape, spec: FineTuneJobSpec, moving: int, node: int) -> tuple[str, ...]:
    notes: list[str] = []
    if node:
        notes.append(f"resources.memory must have room for {node / 2**30:.1f} GiB that training.shardOffloading holds there, in each pod")
    method = spec.method
    if shape.experts:
        notes.append("models with experts were not held against a measurement: how tokens spread over experts moves the peak")
    if method.quantization.type == "int8":
        notes.append("int8 was not held against a measurement: outlier columns take memory of their own")
    if method.quantization.type == "fp8":
        notes.append("fp8 was held against torch's own operations, not against a GPU")
    if shape.packing is not None:
        notes.append("a base that is packed already was not held against a measurement on a GPU")
    if method.adapter.dora:
        notes.append("DoRA was not held against a measurement: it takes the norm of each weight with its update in every pass")
    if method.objective == "orpo":
        notes.append("the loss of orpo was held against torch's own operations; kernels by Triton on a GPU take less")
    if method.adapter.init in ("olora", "pissa", "eva", "loftq"):
        notes.append(f"the initialisation {method.adapter.init} works before training and is not counted")
    if (judging := compute_judging_bytes(shape, spec)) > moving:
        more = (judging - moving) / 2**30
        notes.append(
            f"not counted: answers to samples and tasks, which take {more:.1f} GiB more than a step where prompts are as long as maxLength"
        )
    parts = spec.resources.gpus * spec.resources.nodes
    if divides(spec):
        notes.append(f"counted for one GPU of {parts}, which divide the base model; the buffers of NCCL are not counted")
    elif parts > 1:
        notes.append("counted for one GPU of several: each holds the whole base model")
    return tuple(notes)
