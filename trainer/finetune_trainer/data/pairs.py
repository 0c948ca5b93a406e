"""From normalised preferences and prompts to token ids, in the same way as TRL's trainers (1.16): a test holds that they are equal."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from finetune_api.spec.objective import Objective
from finetune_trainer.data.faults import MAX_FAULTS, Row, SourceRow
from finetune_trainer.data.preflight import Tally
from finetune_trainer.data.tables import Columns
from finetune_trainer.data.tokenizing import IGNORED, ExampleTokenizer, Tokenised


@dataclass(slots=True)
class CheckedAnswers(Tally):
    """Tokenised answers that are fit to learn from, as columns of TRL's names, and what became of the others. Whole and ended ones are
    counted of those that should be learnt.
    """

    columns: Columns = field(default_factory=dict)

    def add(self, **values: Any) -> None:  # noqa: ANN401
        """Append an example."""
        self.count += 1
        for name, value in values.items():
            self.columns.setdefault(name, []).append(value)


def check_answers(
    rows: Sequence[SourceRow], objective: Objective, tokenizer: ExampleTokenizer, max_length: int, *, drop_long: bool
) -> CheckedAnswers:
    """Tokenise ``rows``, truncate their answers to ``max_length`` tokens with the prompt, drop what has nothing to learn, and count.

    Columns are `prompt_ids`, `chosen_ids`, `rejected_ids` for ``dpo`` and ``orpo``; `chosen_ids`, `rejected_ids` with the prompt in them
    for ``reward``; `prompt_ids`, `completion_ids`, `label` for ``kto``.

    :param drop_long: drop an example that is too long instead of cutting it.
    """
    checked = CheckedAnswers()
    stops = tokenizer.stop_ids
    for row, answers in zip(rows, _tokenise(rows, tokenizer), strict=True):
        begin = min(_begin_of(answer) for answer in answers)
        long = max(len(answer.input_ids) for answer in answers) > max_length
        if long:
            checked.truncated += not drop_long
            if len(checked.long) < MAX_FAULTS:
                checked.long.append(row.where)
        cut = [answer.input_ids[:max_length] for answer in answers]
        if (long and drop_long) or begin >= max_length or any(len(ids) <= begin for ids in cut) or (len(cut) == 2 and cut[0] == cut[1]):
            checked.dropped += 1
            continue
        checked.longest = max(checked.longest, *(len(ids) for ids in cut))
        if len(answers[0].input_ids) <= max_length and row.value.get("label", True):
            checked.whole += 1
            checked.unended += objective != "reward" and not _ends(cut[0], begin, stops)
        if objective == "reward":
            checked.add(chosen_ids=cut[0], rejected_ids=cut[1])
        elif objective == "kto":
            checked.add(prompt_ids=cut[0][:begin], completion_ids=cut[0][begin:], label=row.value["label"])
        else:
            checked.add(prompt_ids=cut[0][:begin], chosen_ids=cut[0][begin:], rejected_ids=cut[1][begin:])
    return checked


def check_prompts(
    rows: Sequence[SourceRow],
    tokenizer: Any,  # noqa: ANN401
    max_length: int,
    max_new_tokens: int,
) -> CheckedAnswers:
    """Count the tokens of ``rows``' prompts, and drop those that leave no room for an answer. Columns are `prompt` and `answer`."""
    checked = CheckedAnswers()
    room = max_length - max_new_tokens
    for row in rows:
        prompt = row.value["prompt"]
        if isinstance(prompt, list):
            ids = tokenizer.apply_chat_template(prompt, tokenize=True, return_dict=True, add_generation_prompt=True)["input_ids"]
        else:
            ids = tokenizer(text=prompt)["input_ids"]
        if len(ids) > room:
            checked.dropped += 1
            if len(checked.long) < MAX_FAULTS:
                checked.long.append(row.where)
            continue
        checked.longest = max(checked.longest, len(ids) + max_new_tokens)
        checked.add(prompt=prompt, answer=row.value.get("answer"))
    return checked


def _tokenise(rows: Sequence[SourceRow], tokenizer: ExampleTokenizer) -> Iterator[tuple[Tokenised, ...]]:
    names = [name for name in ("completion", "chosen", "rejected") if name in rows[0].value] if rows else []
    columns = [tokenizer.tokenise([_build_pair(row.value, name) for row in rows]) for name in names]
    return zip(*columns, strict=True)


def _build_pair(row: Row, answer: str) -> Row:
    return {"prompt": row["prompt"], "completion": row[answer]}


def _begin_of(answer: Tokenised) -> int:
    """Where the tokens of the prompt and of prompt and answer part."""
    return next((number for number, label in enumerate(answer.labels) if label != IGNORED), len(answer.labels))


def _ends(ids: Sequence[int], begin: int, stops: frozenset[int]) -> bool:
    """Tell whether there is a stop token in the answer."""
    return any(token in stops for token in ids[begin:])
