"""The trainer's last word: a termination message that outlives an operator that was down."""

from typing import Annotated, Literal

from pydantic import Field, ValidationError

from finetune_api.artifact import Artifact
from finetune_api.base import StoredModel
from finetune_api.names import SUMMARY_MAX_BYTES
from finetune_api.progress import DatasetCounts, Metrics, Progress
from finetune_api.reasons import Reason

_ELLIPSIS = "…"


class TrainerSummary(StoredModel):
    """How a trainer's pod ended. At most 4,096 bytes as JSON: see :func:`encode_summary`."""

    outcome: Literal["completed", "interrupted", "failed"]
    """How it ended."""
    reason: Reason
    """Why, for machines."""
    message: Annotated[str, Field(max_length=4096)] = ""
    """Why, for people."""
    progress: Progress | None = None
    """How far the run came."""
    metrics: Metrics = Field(default_factory=Metrics)
    """The last figures."""
    dataset: DatasetCounts | None = None
    """What became of the data."""
    artifacts: Annotated[list[Artifact], Field(max_length=8)] = Field(default_factory=list)
    """What was published and verified."""
    checkpoint_step: Annotated[int, Field(ge=0)] | None = None
    """Step of the newest complete checkpoint."""
    device: str | None = None
    """Device that was trained on."""


def encode_summary(summary: TrainerSummary) -> str:
    """Return ``summary`` as JSON of at most :data:`SUMMARY_MAX_BYTES` bytes.

    What is too much goes in this order: the other curves, every other point of the loss curve, the loss curve, the last of the samples
    and so on to the first, the base model's name at artifacts (it is the same for
    all, and in the specification), the scores of tasks (they are in the manifest, too), the end of the message. Outcome, reason and
    artifacts always stay; as many artifacts as there can be, of the longest names there are, always fit.
    """
    if len(_dump(summary)) > SUMMARY_MAX_BYTES:
        summary = _replace(summary, curves=None)
    while len(text := _dump(summary)) > SUMMARY_MAX_BYTES and summary.metrics.history:
        summary = _replace(summary, history=summary.metrics.history[1::2] if len(summary.metrics.history) > 8 else [])
    while len(text) > SUMMARY_MAX_BYTES and summary.metrics.samples:
        summary = _replace(summary, samples=summary.metrics.samples[:-1])
        text = _dump(summary)
    if len(text) > SUMMARY_MAX_BYTES:
        unnamed = [artifact.model_copy(update={"base_model": ""}) for artifact in summary.artifacts]
        summary = summary.model_copy(update={"artifacts": [*summary.artifacts[:1], *unnamed[1:]]})
        if len(text := _dump(summary)) > SUMMARY_MAX_BYTES and len(unnamed) > 1:
            summary = summary.model_copy(update={"artifacts": unnamed})
            if len(text := _dump(summary)) > SUMMARY_MAX_BYTES:
                summary = _replace(summary, tasks=[], harness=[])
                text = _dump(summary)
    low, high = 0, len(summary.message)
    if len(text) <= SUMMARY_MAX_BYTES:
        return text.decode()
    while low < high:  # the longest message that fits; escaping makes its length in bytes no simple sum
        middle = (low + high + 1) // 2
        if len(_dump(_shorten(summary, middle))) <= SUMMARY_MAX_BYTES:
            low = middle
        else:
            high = middle - 1
    return _dump(_shorten(summary, low)).decode()


def decode_summary(text: str) -> TrainerSummary | None:
    """Return the summary in a termination message, or None where there is none (the kubelet's own words, say)."""
    try:
        return TrainerSummary.model_validate_json(text)
    except ValidationError:
        return None


def _dump(summary: TrainerSummary) -> bytes:
    return summary.model_dump_json(exclude_none=True).encode()


def _replace(summary: TrainerSummary, **changes: object) -> TrainerSummary:
    return summary.model_copy(update={"metrics": summary.metrics.model_copy(update=changes)})


def _shorten(summary: TrainerSummary, length: int) -> TrainerSummary:
    return summary.model_copy(update={"message": summary.message[:length] + _ELLIPSIS})
