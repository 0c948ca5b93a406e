"""Progress and metrics: what the trainer measures and status shows."""

from typing import Annotated

from pydantic import Field, PlainSerializer

from finetune_api.base import StoredModel, Timestamp
from finetune_api.names import CURVES_MAX_POINTS, EXCERPT_MAX_CHARACTERS, HISTORY_MAX_POINTS


def _round(digits: int) -> PlainSerializer:
    """Write a number with so many significant digits: status is for reading, and ``metrics.jsonl`` has the rest."""
    return PlainSerializer(lambda value: float(f"{value:.{digits}g}"), return_type=float, when_used="json")


MAX_ADJUSTMENTS = 8
MAX_SAMPLES_IN_STATUS = 4
Count = Annotated[int, Field(ge=0, le=2**53)]
Measure = Annotated[float, Field(ge=0, le=1e15), _round(6)]
Loss = Annotated[float, Field(ge=-1e6, le=1e6), _round(5)]


class Progress(StoredModel):
    """How far the run is."""

    percentage: Annotated[int, Field(ge=0, le=100)]
    """Share of the optimizer steps done, in percent, rounded down."""
    step: Count
    """Optimizer steps done."""
    total_steps: Count
    """Optimizer steps of the whole run."""
    epoch: Measure
    """Passes over the data done."""
    estimated_remaining_seconds: Count | None = None
    """Time to the end at the present speed, in seconds."""
    last_updated_time: Timestamp
    """When the trainer measured this."""
    adjustments: Annotated[list[Annotated[str, Field(max_length=256)]], Field(max_length=MAX_ADJUSTMENTS)] | None = None
    """What the trainer changed on its own to go on: the newest, as sentences."""


class LossPoint(StoredModel):
    """One point of the loss curve."""

    step: Count
    """Optimizer step."""
    loss: Loss
    """Training loss there."""


Signed = Annotated[float, Field(ge=-1e15, le=1e15), _round(6)]
Share = Annotated[float, Field(ge=0, le=1), _round(5)]


class Curves(StoredModel):
    """Figures over the run: lists of one length, of which each has the value at the step of the same place. One that was not measured
    all along is empty."""

    steps: Annotated[list[Count], Field(max_length=CURVES_MAX_POINTS)] = Field(default_factory=list)
    """Optimizer steps, thinned to at most 32 over the whole run."""
    learning_rate: Annotated[list[Measure], Field(max_length=CURVES_MAX_POINTS)] = Field(default_factory=list)
    """Learning rate there."""
    grad_norm: Annotated[list[Measure], Field(max_length=CURVES_MAX_POINTS)] = Field(default_factory=list)
    """Norm of the gradient there, before clipping."""
    tokens_per_second: Annotated[list[Measure], Field(max_length=CURVES_MAX_POINTS)] = Field(default_factory=list)
    """Training tokens a second."""
    memory_bytes: Annotated[list[Count], Field(max_length=CURVES_MAX_POINTS)] = Field(default_factory=list)
    """Memory held, in bytes: by the GPU's allocator at its most, or by the process where there is no GPU."""


Excerpt = Annotated[str, Field(max_length=EXCERPT_MAX_CHARACTERS)]


class SampleExcerpt(StoredModel):
    """A sample of `evaluation.samples`, cut to what fits in a status."""

    prompt: Excerpt
    """The prompt's end, as the model read it."""
    before: Excerpt | None = None
    """The beginning of the answer before training."""
    after: Excerpt | None = None
    """The beginning of the answer after it."""


class TaskScore(StoredModel):
    """How a task of `evaluation.tasks` went."""

    name: Annotated[str, Field(max_length=32)]
    """Name of the task."""
    base_score: Share | None = None
    """Share of the answers that counted, before training."""
    score: Share | None = None
    """Share of the answers that count, after it."""
    examples: Count
    """Prompts asked."""


class HarnessScore(StoredModel):
    """How a task of `evaluation.harness` went."""

    name: Annotated[str, Field(max_length=64)]
    """Name of the task."""
    metric: Annotated[str, Field(max_length=64)]
    """What is measured: the first of the task's metrics, such as `acc` or `exact_match`."""
    base_score: Signed | None = None
    """Its value before training."""
    score: Signed | None = None
    """Its value after it."""
    examples: Count
    """Questions asked."""


class Metrics(StoredModel):
    """What the trainer measures. All numbers are finite; one that isn't known is absent."""

    loss: Loss | None = None
    """Training loss of the last logged steps, as the objective defines it: for `sft` and `pretrain` the mean negative log-likelihood,
    in nats a token."""
    eval_loss: Loss | None = None
    """Loss on held-out data, last time it was measured."""
    base_eval_loss: Loss | None = None
    """Loss on held-out data before the first step, for comparison."""
    perplexity: Measure | None = None
    """Perplexity on held-out data: e to the power of `evalLoss`. For `sft` and `pretrain`."""
    best_step: Count | None = None
    """Step at which `evalLoss` was lowest, and of which the adapter is, with `training.checkpoint.publishBest`."""
    reward_accuracy: Share | None = None
    """Share of pairs in which the chosen answer has the higher reward (`dpo`, `orpo`, `reward`)."""
    reward_margin: Signed | None = None
    """Mean lead of the chosen answer's reward (`dpo`, `orpo`, `reward`), or of good answers over bad ones (`kto`)."""
    reward: Signed | None = None
    """Mean reward of the model's own answers (`grpo`)."""
    completion_tokens: Measure | None = None
    """Mean length of the model's own answers in tokens (`grpo`)."""
    eval_reward_accuracy: Share | None = None
    """`rewardAccuracy` on held-out data."""
    eval_reward_margin: Signed | None = None
    """`rewardMargin` on held-out data."""
    eval_reward: Signed | None = None
    """`reward` on held-out prompts."""
    base_perplexity: Measure | None = None
    """Perplexity on held-out data before the first step."""
    learning_rate: Measure | None = None
    """Learning rate of the last step."""
    grad_norm: Measure | None = None
    """Norm of the gradient of the last step, before clipping."""
    tokens_per_second: Measure | None = None
    """Training tokens a second."""
    tokens_seen: Count | None = None
    """Training tokens so far."""
    step_seconds: Measure | None = None
    """Longest of the last steps, in seconds."""
    checkpoint_seconds: Measure | None = None
    """Longest time that a checkpoint took from its beginning to its last byte in the store, in seconds."""
    gpu_memory_peak_bytes: Count | None = None
    """Largest memory that the GPU's allocator has held, in bytes."""
    gpu_memory_estimate_bytes: Count | None = None
    """Memory of one GPU that the run needs by the trainer's estimate, from the model's configuration and the settings, in bytes."""
    tasks: Annotated[list[TaskScore], Field(max_length=8)] = Field(default_factory=list)
    """Scores of `evaluation.tasks`."""
    harness: Annotated[list[HarnessScore], Field(max_length=8)] = Field(default_factory=list)
    """Scores of `evaluation.harness`."""
    history: Annotated[list[LossPoint], Field(max_length=HISTORY_MAX_POINTS)] = Field(default_factory=list)
    """The loss curve, thinned to at most 64 points over the whole run."""
    curves: Curves | None = None
    """More curves."""
    samples: Annotated[list[SampleExcerpt], Field(max_length=MAX_SAMPLES_IN_STATUS)] = Field(default_factory=list)
    """Answers before and after training, where `evaluation.samples.inStatus` asks for them."""


class DatasetCounts(StoredModel):
    """What became of the data."""

    examples: Count
    """Examples trained on."""
    eval_examples: Count = 0
    """Examples held out for evaluation."""
    dropped: Count = 0
    """Examples left out, since nothing was left to learn in them, or they were too long."""
    truncated: Count = 0
    """Examples cut at `training.maxLength`."""
    duplicates: Count = 0
    """Examples left out, since they were equal to another."""
    malformed: Count = 0
    """Rows left out, since they were malformed."""
