"""What judging found, as it is kept in checkpoints and in the artifact's ``evaluation.json``."""

from typing import Annotated

from pydantic import Field

from finetune_api.base import StoredModel
from finetune_api.progress import HarnessScore, TaskScore

Answers = list[str]


class Sample(StoredModel):
    """One prompt and what was answered."""

    prompt: str
    """The prompt as the model read it, chat template and all."""
    expected: str | None = None
    """The answer in the held-out data."""
    before: str | None = None
    """The model's answer before the first step."""
    after: str | None = None
    """The model's answer after the last one."""


class TaskResult(StoredModel):
    """How many answers of a task counted."""

    name: str
    examples: Annotated[int, Field(ge=0)]
    before: Annotated[int, Field(ge=0)] | None = None
    """Answers that counted before the first step."""
    after: Annotated[int, Field(ge=0)] | None = None
    """Answers that count after the last one."""


class HarnessResult(StoredModel):
    """What a task of lm-evaluation-harness measured."""

    name: str
    metric: str
    examples: Annotated[int, Field(ge=0)]
    before: float | None = None
    """Its metric before the first step."""
    after: float | None = None
    """Its metric after the last one."""


class Evaluation(StoredModel):
    """All that judging found."""

    samples: list[Sample] = Field(default_factory=list)
    tasks: list[TaskResult] = Field(default_factory=list)
    harness: list[HarnessResult] = Field(default_factory=list)

    def score_tasks(self) -> list[TaskScore]:
        """Return the scores as status shows them."""
        return [
            TaskScore(
                name=task.name,
                base_score=None if task.before is None else task.before / max(task.examples, 1),
                score=None if task.after is None else task.after / max(task.examples, 1),
                examples=task.examples,
            )
            for task in self.tasks
        ]

    def score_harness(self) -> list[HarnessScore]:
        """Return the harness's scores as status shows them."""
        return [
            HarnessScore(name=task.name, metric=task.metric, base_score=task.before, score=task.after, examples=task.examples)
            for task in self.harness
        ]
