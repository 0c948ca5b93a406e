"""How a run is judged: sample answers and tasks, before training and after it."""

from typing import Annotated, Literal

from pydantic import Field

from finetune_api.base import ApiModel
from finetune_api.rules import Rule, UniqueBy
from finetune_api.spec.source import EvalDatasetSpec

TaskMatch = Literal["exact", "contains", "regex", "numeric"]
MAX_TASKS = 8


class GenerationSpec(ApiModel):
    """How answers are generated, in transformers' words. The default is greedy: the likeliest token, always the same answer."""

    max_new_tokens: Annotated[int, Field(ge=1, le=4096)] = 64
    """Longest answer in tokens."""
    temperature: Annotated[float, Field(ge=0, le=10)] = 0.0
    """0 takes the likeliest token; above it tokens are drawn at random (by `training.seed`), the more freely the higher it is."""
    top_k: Annotated[int, Field(ge=1, le=100_000)] | None = None
    """Draw from this many of the likeliest tokens only."""
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    """Draw from the likeliest tokens that together have this probability."""
    num_beams: Annotated[int, Field(ge=1, le=16)] = 1
    """Beams of a beam search; 1 turns it off."""
    repetition_penalty: Annotated[float, Field(ge=0.1, le=10)] = 1.0
    """Above 1, tokens that were there already are made less likely (CTRL: arXiv 1909.05858)."""

    rules = (
        Rule(
            cel="!has(self.topK) || self.temperature > 0.0",
            holds=lambda generation: generation.top_k is None or generation.temperature > 0,
            message="topK is for drawing at random; set temperature above 0, or remove it",
            field="topK",
        ),
        Rule(
            cel="!has(self.topP) || self.temperature > 0.0",
            holds=lambda generation: generation.top_p is None or generation.temperature > 0,
            message="topP is for drawing at random; set temperature above 0, or remove it",
            field="topP",
        ),
        Rule(
            cel="self.numBeams == 1 || self.temperature == 0.0",
            holds=lambda generation: generation.num_beams == 1 or generation.temperature == 0,
            message="numBeams above 1 searches for the likeliest answer and draws none at random; set temperature to 0",
            field="numBeams",
        ),
    )


class SamplesSpec(ApiModel):
    """Answers shown side by side in the report: the base model's, and the tuned model's."""

    count: Annotated[int, Field(ge=0, le=16)] = 4
    """Prompts taken from the held-out data where `prompts` is empty; 0 turns samples off."""
    prompts: Annotated[list[Annotated[str, Field(min_length=1, max_length=4096)]], Field(max_length=16)] = Field(default_factory=list)
    """Prompts of your own; a model with a chat template gets each as a user's message."""


class TaskSpec(EvalDatasetSpec):
    """A file of prompts and expected answers: rows of `prompt` (or `messages`) and `answer`."""

    name: Annotated[str, Field(min_length=1, max_length=32, pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")]
    """Name of the task in `status.metrics.tasks`."""
    match: TaskMatch = "exact"
    """When an answer counts: `exact` (equal but for white space at its ends), `contains` (the expected text is in it), `regex` (the
    expected RE2 expression matches somewhere in it), `numeric` (its last number is the expected one)."""
    ignore_case: bool = False
    """Compare without regard to upper and lower case."""
    max_examples: Annotated[int, Field(ge=1, le=10_000)] = 200
    """Rows that are asked, from the file's first; each is answered twice, before training and after it."""


class EvaluationSpec(ApiModel):
    """How the run is judged, beside the held-out loss."""

    samples: SamplesSpec = Field(default_factory=SamplesSpec)
    """Answers to look at."""
    tasks: Annotated[list[TaskSpec], Field(max_length=MAX_TASKS), UniqueBy("name")] = Field(default_factory=list)
    """Answers that are scored."""
    generation: GenerationSpec = Field(default_factory=GenerationSpec)
    """How the answers of samples and tasks are generated."""
