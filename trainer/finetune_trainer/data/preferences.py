"""Rows that say which answers are good: pairs, labelled answers, and prompts whose answers are rewarded. Pure."""

import json
from collections.abc import Sequence
from typing import Any, Final

from finetune_trainer.data.faults import Row
from finetune_trainer.data.values import Malformed, Message, check_dialogue, name_type, take_answer, take_messages, take_text

_TRUE: Final = frozenset({"true", "1", "yes", "good"})
_FALSE: Final = frozenset({"false", "0", "no", "bad"})


def from_preference(row: Row) -> Row:
    """Return prompt, chosen and rejected answer."""
    chosen, rejected = row.get("chosen"), row.get("rejected")
    if not isinstance(chosen, (list, tuple)) and not isinstance(rejected, (list, tuple)):
        if row.get("prompt") is None:
            raise Malformed("prompt is missing; only chosen and rejected that are lists of messages may hold it themselves")
        if isinstance(row["prompt"], (list, tuple)):
            prompts = _take_prompts(row["prompt"])
            answers = [[{"role": "assistant", "content": take_answer(row, name)}] for name in ("chosen", "rejected")]
            return _build_pair(prompts, *answers)
        return _build_pair(take_text(row, "prompt"), take_answer(row, "chosen"), take_answer(row, "rejected"))
    good, bad = take_messages(chosen, "chosen"), take_messages(rejected, "rejected")
    prompt = row.get("prompt")
    if isinstance(prompt, (list, tuple)):
        prompts = _take_prompts(prompt)
        if good[: len(prompts)] == prompts and bad[: len(prompts)] == prompts:  # whole conversations, beside the prompt
            good, bad = good[len(prompts) :], bad[len(prompts) :]
    else:
        shared = _count_shared(good, bad)
        prompts, good, bad = good[:shared], good[shared:], bad[shared:]
        if not prompts:
            raise Malformed("chosen and rejected don't begin with the same prompt; give it in prompt, or in both")
    for name, messages in (("chosen", good), ("rejected", bad)):
        if not messages or messages[0]["role"] != "assistant":
            raise Malformed(f"{name} does not go on with an answer of the assistant after the prompt")
        check_dialogue([*prompts, *messages], name)
    return _build_pair(prompts, good, bad)


def from_unpaired(row: Row) -> Row:
    """Return prompt, answer, and whether it is a good one."""
    prompt, completion, label = row.get("prompt"), row.get("completion"), _take_label(row.get("label"))
    if isinstance(prompt, (list, tuple)) or isinstance(completion, (list, tuple)):
        prompts = _take_prompts(prompt)
        answer = take_messages(completion, "completion")
        if answer[0]["role"] != "assistant":
            raise Malformed(f"completion begins with the role {answer[0]['role']}, not assistant")
        check_dialogue([*prompts, *answer], "prompt + completion")
        return {"prompt": prompts, "completion": answer, "label": label}
    return {"prompt": take_text(row, "prompt"), "completion": take_answer(row, "completion"), "label": label}


def from_prompt(row: Row) -> Row:
    """Return a prompt and, where there is one, the answer that rewards compare with."""
    prompt = row.get("prompt")
    taken: Any = _take_prompts(prompt) if isinstance(prompt, (list, tuple)) else take_answer(row, "prompt")
    answer = row.get("answer")
    if isinstance(answer, (int, float)) and not isinstance(answer, bool):
        answer = json.dumps(answer)
    if answer is not None and not isinstance(answer, str):
        raise Malformed(f"answer is {name_type(answer)}, not a text or a number")
    return {"prompt": taken, "answer": answer}


def unpair(row: Row) -> tuple[Row, Row]:
    """Return the two labelled answers of a pair."""
    return (
        {"prompt": row["prompt"], "completion": row["chosen"], "label": True},
        {"prompt": row["prompt"], "completion": row["rejected"], "label": False},
    )


def _build_pair(prompt: Any, chosen: Any, rejected: Any) -> Row:  # noqa: ANN401  texts, or lists of messages
    if chosen == rejected:
        raise Malformed("chosen and rejected are equal: there is nothing to learn")
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected}


def _take_prompts(value: object) -> list[Message]:
    prompts = take_messages(value, "prompt")
    if prompts[-1]["role"] == "assistant":
        raise Malformed("prompt ends with an answer of the assistant; it must end with the user's turn")
    return prompts


def _count_shared(first: Sequence[Message], second: Sequence[Message]) -> int:
    """Return how many messages both begin with, up to the last answer of the assistant that differs."""
    shared = 0
    while shared < min(len(first), len(second)) and first[shared] == second[shared]:
        shared += 1
    return shared


def _take_label(value: object) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, int) and value in (0, 1):
        return bool(value)
    if isinstance(value, str) and value.strip().lower() in _TRUE | _FALSE:  # as a CSV has them
        return value.strip().lower() in _TRUE
    raise Malformed(f"label is {'missing' if value is None else repr(value)[:40]}, not true or false")
