"""What judging found, as it is kept in checkpoints and in the artifact's ``evaluation.json``."""

from typing import Annotated, Final

from pydantic import Field

from finetune_api.base import StoredModel
from finetune_api.names import EXCERPT_MAX_CHARACTERS
from finetune_api.progress import HarnessScore, SampleExcerpt, TaskScore

Answers = list[str]
_UNPRINTABLE: Final = {number: "\ufffd" for number in (*range(32), 127) if chr(number) not in "\n\t"}


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

    def excerpt_samples(self, count: int) -> list[SampleExcerpt]:
        """Return the first ``count`` samples, cut as status shows them."""
        return [
            SampleExcerpt(
                prompt=_cut_beginning(sample.prompt),
                before=None if sample.before is None else _cut_end(sample.before),
                after=None if sample.after is None else _cut_end(sample.after),
            )
            for sample in self.samples[:count]
        ]

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


def _cut_beginning(text: str) -> str:
    text = _clean(text)
    return text if len(text) <= EXCERPT_MAX_CHARACTERS else "…" + text[-EXCERPT_MAX_CHARACTERS + 1 :]


def _cut_end(text: str) -> str:
    text = _clean(text)
    return text if len(text) <= EXCERPT_MAX_CHARACTERS else text[: EXCERPT_MAX_CHARACTERS - 1] + "…"


def _clean(text: str) -> str:
    """Return ``text`` without characters that take six bytes in JSON, or that the API server may refuse."""
    return text.translate(_UNPRINTABLE).encode(errors="replace").decode()
