"""Task files: prompts and expected answers."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from finetune_api.names import ENV_PREFIX_TASK, number_prefix
from finetune_api.spec import TaskSpec
from finetune_trainer.data.faults import Faults, SourceRow
from finetune_trainer.data.fetch import fetch_dataset
from finetune_trainer.data.reading import load_rows
from finetune_trainer.errors import DataInvalid
from finetune_trainer.evaluation.matching import Matcher, build_matcher
from finetune_trainer.evaluation.prompts import Prompt, read_prompt
from finetune_trainer.storage.credentials import Credentials


@dataclass(frozen=True, slots=True)
class Task:
    """A task, read and checked."""

    name: str
    prompts: list[Prompt]
    matchers: list[Matcher]
    """Of each prompt, when its answer counts."""


def load_tasks(specs: list[TaskSpec], folder: Path, environ: Mapping[str, str]) -> list[Task]:
    """Fetch and read the task files of ``specs`` into ``folder``.

    :raises DataInvalid: rows that have no prompt or no answer, or expressions that are none; up to 20 of them, with file and line.
    """
    tasks = []
    for index, spec in enumerate(specs):
        credentials = Credentials.from_environ(number_prefix(ENV_PREFIX_TASK, index), environ)
        try:
            fetched = fetch_dataset(spec, credentials, folder / spec.name)
            tasks.append(build_task(spec, load_rows(fetched.files, fetched.root)))
        except DataInvalid as error:
            raise DataInvalid(f"evaluation.tasks[{index}] ({spec.name}): {error.message}") from None
    return tasks


def build_task(spec: TaskSpec, rows: list[SourceRow]) -> Task:
    """Build a task of the first ``maxExamples`` of ``rows``.

    :raises DataInvalid: as :func:`load_tasks`.
    """
    faults = Faults()
    prompts: list[Prompt] = []
    matchers: list[Matcher] = []
    for row in rows[: spec.max_examples]:
        prompt = read_prompt(row.value.get("messages", row.value.get("prompt")))
        answer = row.value.get("answer")
        if isinstance(answer, (int, float)) and not isinstance(answer, bool):
            answer = json.dumps(answer)
        if prompt is None:
            faults.add(row.where, "has no prompt: a text in prompt, or a list of messages that ends with the user's")
        elif not isinstance(answer, str):
            faults.add(row.where, "has no answer: a text or a number")
        else:
            try:
                matchers.append(build_matcher(spec.match, answer, ignore_case=spec.ignore_case))
                prompts.append(prompt)
            except ValueError as error:
                faults.add(row.where, str(error))
    faults.raise_if_any("unusable rows")
    return Task(spec.name, prompts, matchers)


def count_matches(task: Task, answers: list[str]) -> int:
    """Return how many of ``answers`` count."""
    return sum(matches(answer) for matches, answer in zip(task.matchers, answers, strict=True))
