"""What answering takes: the cache of keys and values, and the prompts' way through a layer."""

from typing import Final

from finetune_api.estimate.shape import ModelShape
from finetune_api.estimate.step import WIDTHS
from finetune_api.estimate.terms import Term
from finetune_api.spec import FineTuneJobSpec

ANSWERED_AT_ONCE: Final = 8
"""Prompts of samples and tasks in one batch."""


def build_answer_terms(shape: ModelShape, spec: FineTuneJobSpec) -> list[Term]:
    """Return what GRPO's answers take, which are drawn between steps: nothing of a step is there then."""
    grpo = spec.method.grpo
    if grpo is None:
        return []
    training = spec.training
    rows = training.per_device_batch_size * training.gradient_accumulation_steps
    return _build(shape, spec, rows, max(1, training.max_length - grpo.max_completion_length), training.max_length)


def compute_judging_bytes(shape: ModelShape, spec: FineTuneJobSpec) -> int:
    """Return what the longest answers to samples and tasks take, where there may be any; 0 without."""
    evaluation, training = spec.evaluation, spec.training
    samples = len(evaluation.samples.prompts) or evaluation.samples.count
    asked = ANSWERED_AT_ONCE if evaluation.tasks or evaluation.harness else samples
    if not asked or spec.method.objective == "reward":
        return 0
    rows = min(asked, ANSWERED_AT_ONCE) * evaluation.generation.num_beams
    longest = training.max_length + evaluation.generation.max_new_tokens
    return sum(term.size_bytes for term in _build(shape, spec, rows, training.max_length, longest))


def _build(shape: ModelShape, spec: FineTuneJobSpec, rows: int, prompt: int, longest: int) -> list[Term]:
    width = WIDTHS[spec.method.quantization.compute_dtype]
    cache = rows * longest * shape.layers * 2 * shape.key_value * width
    active = shape.experts_per_token or 1
    # In a layer: the gated product, the last linear layer's own result and its adapter's, before and after it is scaled; the sum that runs
    # through; and its norm, in 16 bits and 32.
    through = rows * prompt * width * (4 * active * shape.intermediate + 7 * shape.hidden // 2)
    logits = rows * shape.vocabulary * (width + 2 * 4)
    # While the prompts are read, there are no keys and values of answers yet; while these are written, those of one layer are copied.
    answering = max(through - cache * (longest - prompt) // longest, cache // shape.layers) + logits
    return [
        Term("keys and values", "moving", cache, f"of {rows} answers at once, of {longest:,} tokens with their prompts"),
        Term("answering", "moving", answering, "the prompts' way through a layer, and the next token's logits"),
    ]
