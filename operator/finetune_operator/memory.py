"""What a run needs of a GPU, where its model is known without being read: the shapes of well-known models are, and of any other the trainer
tells what it has found. See docs/decisions/0014-fractions.md.
"""

from dataclasses import dataclass
from typing import Final

from finetune_api.estimate import Estimate, ShapeUnknown, compute_changes_that_fit, compute_estimate, divides, find_known_shape
from finetune_api.estimate.shape import ModelShape
from finetune_api.progress import Metrics
from finetune_api.spec import FineTuneJobSpec
from finetune_operator.capacity import LargestGpu, say_gibibytes

_TERMS_NAMED: Final = 3
"""Largest terms of an estimate that are named."""
_CHANGES_NAMED: Final = 3
"""Changes by which a run would fit that are named."""


@dataclass(frozen=True, slots=True)
class MemoryNeed:
    """What a run needs of one GPU."""

    size_bytes: int
    words: str
    """A sentence with the figure and what it is made of."""
    is_told: bool = False
    """The trainer has told it, in the midst of a run."""


def compute_need(spec: FineTuneJobSpec, metrics: Metrics | None) -> MemoryNeed | None:
    """Return what the run needs of one GPU; None of a run without GPUs, and where nothing is known of its model.

    :param metrics: what the trainer has told so far.
    """
    if not spec.resources.gpus:
        return None
    estimate = _estimate(spec)
    if estimate is not None:
        size = estimate.total_bytes
        largest = sorted(estimate.terms, key=lambda term: -term.size_bytes)[:_TERMS_NAMED]
        named = ", ".join(f"{term.name} {say_gibibytes(term.size_bytes)}" for term in largest)
        words = f"Needs about {say_gibibytes(size)} of {_say_whose(spec)} memory, by estimate ({named} and less)."
        return MemoryNeed(size, words + _say_node(spec, estimate))
    told = metrics.gpu_memory_estimate_bytes if metrics is not None else None
    if told is None:
        return None
    return MemoryNeed(told, f"Needs about {say_gibibytes(told)} of {_say_whose(spec)} memory, by the trainer's estimate.", is_told=True)


def describe_shortage(spec: FineTuneJobSpec, largest: LargestGpu) -> str:
    """Return that the run needs more than the largest GPU has, and what would make it fit where that is known."""
    words = f"The largest {largest.words} has {say_gibibytes(largest.size_bytes)}: the run will probably run out of memory."
    shapes = _find_shapes(spec)
    if shapes is None:
        return words
    changes = compute_changes_that_fit(shapes[0], spec, largest.size_bytes, shapes[1])[:_CHANGES_NAMED]
    if not changes:
        return f"{words} No single change would make it fit."
    return f"{words} It would fit with {'; or with '.join(map(str, changes))}."


def _say_whose(spec: FineTuneJobSpec) -> str:
    return f"each of {spec.resources.gpus * spec.resources.nodes} GPUs'" if divides(spec) else "a GPU's"


def _say_node(spec: FineTuneJobSpec, estimate: Estimate) -> str:
    if not estimate.node_bytes:
        return ""
    words = f" Of each pod's memory it needs about {say_gibibytes(estimate.node_bytes)} for what training.shardOffloading holds there"
    return f"{words}; resources.memory is {spec.resources.memory}."


def _find_shapes(spec: FineTuneJobSpec) -> tuple[ModelShape, ModelShape | None] | None:
    shape = find_known_shape(spec.model.uri)
    if shape is None:
        return None
    distill = spec.method.distill
    return shape, find_known_shape(distill.teacher.uri) if distill is not None else None


def _estimate(spec: FineTuneJobSpec) -> Estimate | None:
    shapes = _find_shapes(spec)
    if shapes is None:
        return None
    try:
        return compute_estimate(shapes[0], spec, shapes[1])
    except ShapeUnknown:
        return None
