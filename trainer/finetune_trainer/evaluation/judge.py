"""Asking the model before training and after it."""

import logging
import time
from collections.abc import Callable, Sequence
from typing import Any, Literal

from finetune_api.spec.evaluation import EvaluationSpec
from finetune_api.spec.method import ComputeDtype
from finetune_trainer.evaluation.harness import HarnessTask, measure_task
from finetune_trainer.evaluation.prompts import Prompt, SamplePrompt, render_prompt
from finetune_trainer.evaluation.results import Evaluation, HarnessResult, Sample, TaskResult
from finetune_trainer.evaluation.tasks import Task, count_matches

logger = logging.getLogger(__name__)
When = Literal["before", "after"]


class Judge:
    """Asks a model the run's samples and tasks.

    :param conversational: whether prompts are written by the chat template, as the training data were.
    :param stop_ids: tokens that end an answer.
    :param stops_midway: whether answers are broken off when the run is asked to stop, or only the next ones are not begun. Processes
        that ask together must stop at the same point.
    """

    def __init__(
        self,
        spec: EvaluationSpec,
        tokenizer: Any,  # noqa: ANN401
        samples: Sequence[SamplePrompt],
        tasks: Sequence[Task],
        harness: Sequence[HarnessTask] = (),
        *,
        seed: int,
        compute_dtype: ComputeDtype,
        max_length: int,
        conversational: bool,
        instruction: bool,
        stop_ids: Sequence[int],
        stop_requested: Callable[[], bool],
        stops_midway: bool = True,
    ) -> None:
        self._spec = spec
        self._tokenizer = tokenizer
        self._samples = list(samples)
        self._tasks = list(tasks)
        self._harness = list(harness)
        self._seed = seed
        self._compute_dtype: ComputeDtype = compute_dtype
        self._max_prompt = max(16, max_length - spec.generation.max_new_tokens)
        self._conversational = conversational
        self._instruction = instruction
        self._stop_ids = list(stop_ids)
        self._stop_requested = stop_requested
        self._stops_midway = stops_midway

    def judge(self, model: Any, when: When, so_far: Evaluation | None = None) -> Evaluation:  # noqa: ANN401
        """Return ``so_far`` with the answers of ``model`` added. What the run is asked to stop in the midst of is left out."""
        from finetune_trainer.evaluation.generating import GenerationStopped  # noqa: PLC0415  heavy; loaded by now

        found = so_far or self._build_empty()
        begun = time.monotonic()
        try:
            if self._samples and found.samples:
                answers = self._answer(model, [sample.prompt for sample in self._samples])
                pairs = zip(found.samples, answers, strict=True)
                found = found.model_copy(update={"samples": [sample.model_copy(update={when: answer}) for sample, answer in pairs]})
            for number, task in enumerate(self._tasks):
                count = count_matches(task, self._answer(model, task.prompts))
                results = list(found.tasks)
                results[number] = results[number].model_copy(update={when: count})
                found = found.model_copy(update={"tasks": results})
                logger.info("task %s %s training: %d of %d answers count", task.name, when, count, len(task.prompts))
            for number, asked in enumerate(self._harness):
                figure = measure_task(
                    asked,
                    model,
                    self._tokenizer,
                    seed=self._seed,
                    compute_dtype=self._compute_dtype,
                    stop_requested=self._stop_requested,
                )
                if figure is not None:
                    measured = list(found.harness)
                    measured[number] = measured[number].model_copy(update={when: figure.value, "examples": figure.examples})
                    found = found.model_copy(update={"harness": measured})
                    logger.info("task %s of the harness %s training: %s %.4g", asked.name, when, asked.metric, figure.value)
        except GenerationStopped:
            logger.info("asked to stop: the answers %s training are left out", when)
        if self._samples or self._tasks or self._harness:
            logger.info("answers %s training took %.1f s", when, time.monotonic() - begun)
        return found

    def _build_empty(self) -> Evaluation:
        return Evaluation(
            samples=[Sample(prompt=self._render(sample.prompt), expected=sample.expected) for sample in self._samples],
            tasks=[TaskResult(name=task.name, examples=len(task.prompts)) for task in self._tasks],
            harness=[HarnessResult(name=task.name, metric=task.metric, examples=0) for task in self._harness],
        )

    def _render(self, prompt: Prompt) -> str:
        return render_prompt(prompt, self._tokenizer, conversational=self._conversational, instruction=self._instruction)

    def _answer(self, model: Any, prompts: Sequence[Prompt]) -> list[str]:  # noqa: ANN401
        from finetune_trainer.evaluation.generating import generate_answers  # noqa: PLC0415

        return generate_answers(
            model,
            self._tokenizer,
            [self._render(prompt) for prompt in prompts],
            self._spec.generation,
            seed=self._seed,
            compute_dtype=self._compute_dtype,
            max_prompt_tokens=self._max_prompt,
            stop_requested=self._stop_requested,
            stops_midway=self._stops_midway,
            stop_ids=self._stop_ids,
            adds_special_tokens=not (self._conversational and self._tokenizer.chat_template),
        )
