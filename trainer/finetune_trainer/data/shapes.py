"""The shapes that a dataset's rows may have, how they are told apart, and what each becomes.

Everything here is pure. Rows come out in TRL's own shapes: ``{"messages": [...]}``, ``{"prompt": ..., "completion": ...}`` (two
texts, or two lists of messages), ``{"text": ...}``, ``{"prompt": ..., "chosen": ..., "rejected": ...}``, ``{"prompt": ...,
"completion": ..., "label": bool}`` or ``{"prompt": ..., "answer": ...}``.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Final

from finetune_api.spec.objective import OBJECTIVE_FORMATS, Objective
from finetune_trainer.data.faults import Row
from finetune_trainer.data.preferences import from_preference, from_prompt, from_unpaired
from finetune_trainer.data.values import Malformed, check_dialogue, take_answer, take_messages, take_text
from finetune_trainer.errors import DataInvalid

NEEDS: Final[dict[str, str]] = {
    "messages": 'a "messages" column: a list of {"role": "system"|"user"|"assistant", "content": "…"}',
    "prompt-completion": '"prompt" and "completion" columns: two texts, or two lists of messages',
    "instruction": '"instruction" and "output" columns, and optionally "input" and "system": texts',
    "sharegpt": 'a "conversations" column: a list of {"from": "system"|"human"|"gpt", "value": "…"}',
    "text": 'a "text" column',
    "preference": '"prompt", "chosen" and "rejected" columns: texts or lists of messages; or only the last two, with the prompt in both',
    "unpaired-preference": '"prompt", "completion" and "label" (true or false) columns',
    "prompt": 'a "prompt" column: a text or a list of messages; and an "answer" column where a reward compares with it',
}
"""What each format needs, for messages to people."""


def _find_formats(names: set[str]) -> list[str]:
    """Return the formats that ``names`` may stand for; the more special one alone where one holds the other's columns."""
    found: list[str] = []
    if "messages" in names:
        found.append("messages")
    if "conversations" in names or "conversation" in names:
        found.append("sharegpt")
    if {"chosen", "rejected"} <= names:
        return ["preference"]  # UltraFeedback and its like repeat the chosen conversation in messages
    if {"prompt", "completion"} <= names:
        found.append("unpaired-preference" if "label" in names else "prompt-completion")
    if {"instruction", "output"} <= names:
        found.append("instruction")
    if not found and "text" in names:
        found.append("text")
    if not found and "prompt" in names:
        found.append("prompt")
    return found


def detect_format(columns: Iterable[str], objective: Objective = "sft") -> str:
    """Return the format that ``columns`` (the names of one row that have a value) stand for.

    :raises DataInvalid: they stand for none, or for more than one, or for one that ``objective`` doesn't learn from; the message lists
        them and what each format needs.
    """
    names = set(columns)
    wanted = OBJECTIVE_FORMATS[objective]
    found = _find_formats(names)
    if objective == "grpo" and "prompt" in names:
        return "prompt"
    if objective == "pretrain" and "text" in names:
        return "text"
    if len(found) == 1 and found[0] in wanted:
        return found[0]
    listed = ", ".join(sorted(names)) or "none"
    needs = "; ".join(f"{name}: {NEEDS[name]}" for name in wanted)
    if not found:
        problem = "fit no known format"
    elif len(found) > 1:
        problem = f"fit several formats ({', '.join(found)}); set dataset.format to one of them"
    elif found[0] == "unpaired-preference" and "prompt-completion" in wanted:
        problem = (
            "are those of answers labelled good and bad: to learn from all of them alike, set dataset.format to prompt-completion; "
            "to learn from the labels, set method.objective to kto"
        )
    else:
        suited = ", ".join(name for name, formats in OBJECTIVE_FORMATS.items() if found[0] in formats)
        problem = f"are those of the format {found[0]}, which the objective {objective} does not learn from (those that do: {suited})"
    raise DataInvalid(f"the columns ({listed}) {problem}. What each format needs: {needs}")


def is_conversation(row: Row) -> bool:
    """Return whether a row in TRL's shape has messages, not texts."""
    return isinstance(next(iter(row.values())), list)


def _from_messages(row: Row) -> Row:
    messages = take_messages(row.get("messages"), "messages")
    check_dialogue(messages, "messages")
    return {"messages": messages}


def _from_sharegpt(row: Row) -> Row:
    name = "conversations" if "conversations" in row else "conversation"
    value = row.get(name)
    first = value[0] if isinstance(value, (list, tuple)) and value else None
    keys = ("role", "content") if isinstance(first, Mapping) and "from" not in first and "role" in first else ("from", "value")
    messages = take_messages(value, name, *keys)
    if (system := take_text(row, "system", optional=True)) and messages[0]["role"] != "system":
        messages.insert(0, {"role": "system", "content": system})
    check_dialogue(messages, name)
    return {"messages": messages}


def _from_pair(row: Row) -> Row:
    prompt, completion = row.get("prompt"), row.get("completion")
    if isinstance(prompt, (list, tuple)) or isinstance(completion, (list, tuple)):
        prompts, completions = take_messages(prompt, "prompt"), take_messages(completion, "completion")
        if prompts[-1]["role"] == "assistant":
            raise Malformed("prompt ends with an answer of the assistant; the answer to learn belongs in completion")
        if completions[0]["role"] != "assistant":
            raise Malformed(f"completion begins with the role {completions[0]['role']}, not assistant")
        check_dialogue([*prompts, *completions], "prompt + completion")
        return {"prompt": prompts, "completion": completions}
    return {"prompt": take_text(row, "prompt"), "completion": take_answer(row, "completion")}


def _from_instruction(row: Row) -> Row:
    instruction, addition = take_text(row, "instruction"), take_text(row, "input", optional=True)
    if not instruction.strip() and not addition.strip():
        raise Malformed("instruction is empty")
    system = take_text(row, "system", optional=True)
    prompt = [{"role": "system", "content": system}] if system.strip() else []
    prompt.append({"role": "user", "content": "\n\n".join(part for part in (instruction, addition) if part.strip())})
    return {"prompt": prompt, "completion": [{"role": "assistant", "content": take_answer(row, "output")}]}


def _from_text(row: Row) -> Row:
    return {"text": take_answer(row, "text")}


CONVERTERS: Final[dict[str, Any]] = {
    "messages": _from_messages,
    "prompt-completion": _from_pair,
    "instruction": _from_instruction,
    "sharegpt": _from_sharegpt,
    "text": _from_text,
    "preference": from_preference,
    "unpaired-preference": from_unpaired,
    "prompt": from_prompt,
}
"""What makes a row of each format one in TRL's shape; raises :class:`Malformed`."""
