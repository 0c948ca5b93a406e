"""Rows of a run's own data that a model is rounded by, and others that the result is judged by."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, Final

from finetune_trainer.data.prepared import PreparedData
from finetune_trainer.data.tokenizing import IGNORED

CALIBRATION_TOKENS: Final = 2**18
"""Tokens to round by, at most: as many as in the paper on GPTQ (128 texts of 2,048)."""
CALIBRATION_ROWS: Final = 512
"""Rows to round by, at most."""
HELD_OUT_ROWS: Final = 64
"""Rows to judge by, at most."""


@dataclass(frozen=True, slots=True)
class TokenRow:
    """An example as a model is given it."""

    input_ids: list[int]
    labels: list[int]
    """As many; -100 is not judged."""


@dataclass(frozen=True, slots=True)
class CalibrationRows:
    """Examples as token ids, none of them packed."""

    train: list[TokenRow]
    held_out: list[TokenRow]
    """Of the examples held out; where there are none, those to train on that are not in ``train``; at the worst the same."""


def choose_calibration(data: PreparedData, tokenizer: Any, seed: int) -> CalibrationRows:  # noqa: ANN401
    """Choose rows by ``seed``, the same ones whenever it is called. Of preferences, the better answer is taken; of prompts without
    answers, the prompt.
    """
    order = Random(seed).sample(range(len(data.train)), len(data.train))  # noqa: S311  no secret
    chosen: list[TokenRow] = []
    tokens = 0
    used = 0
    for index in order:
        row = _read(data.train[index], tokenizer)
        if chosen and (len(chosen) == CALIBRATION_ROWS or tokens + len(row.input_ids) > CALIBRATION_TOKENS):
            break
        used += 1
        if len(row.input_ids) > 1:
            chosen.append(row)
            tokens += len(row.input_ids)
    held = _read_all(data.eval, range(len(data.eval)), tokenizer) if data.eval is not None else iter(())
    held_out = _take(held) or _take(_read_all(data.train, order[used:], tokenizer)) or chosen[:HELD_OUT_ROWS]
    return CalibrationRows(chosen, held_out)


def _take(rows: Iterator[TokenRow]) -> list[TokenRow]:
    judged: list[TokenRow] = []
    for row in rows:
        if any(label != IGNORED for label in row.labels[1:]):
            judged.append(row)
        if len(judged) == HELD_OUT_ROWS:
            break
    return judged


def _read_all(dataset: Any, indices: Sequence[int], tokenizer: Any) -> Iterator[TokenRow]:  # noqa: ANN401
    return (_read(dataset[index], tokenizer) for index in indices)


def _read(row: dict[str, Any], tokenizer: Any) -> TokenRow:  # noqa: ANN401
    if "input_ids" in row:
        return TokenRow(list(row["input_ids"]), list(row["labels"]))
    if "prompt" in row:
        prompt = row["prompt"]
        if isinstance(prompt, list):
            ids = tokenizer.apply_chat_template(prompt, tokenize=True, return_dict=True, add_generation_prompt=True)["input_ids"]
        else:
            ids = tokenizer(text=prompt)["input_ids"]
        return TokenRow(list(ids), list(ids))
    answer = list(row["chosen_ids"] if "chosen_ids" in row else row["completion_ids"])
    before = list(row["prompt_ids"])
    return TokenRow([*before, *answer], [IGNORED] * len(before) + answer)
