"""The shapes that a dataset's rows may have, how they are told apart, and what each becomes.

Everything here is pure. Rows come out in TRL's own shapes: ``{"messages": [...]}``, ``{"prompt": ..., "completion": ...}`` (two
texts, or two lists of messages), ``{"text": ...}``, ``{"prompt": ..., "chosen": ..., "rejected": ...}``, ``{"prompt": ...,
"completion": ..., "label": bool}`` or ``{"prompt": ..., "answer": ...}``.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, get_args

from finetune_api.spec.objective import OBJECTIVE_FORMATS, Objective
from finetune_api.spec.source import DatasetFormat
from finetune_trainer.data.faults import Faults, Row, SourceRow
from finetune_trainer.data.preferences import from_preference, from_prompt, from_unpaired
from finetune_trainer.data.values import Malformed, check_dialogue, refuse_unsupported, take_answer, take_messages, take_text
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


def choose_format(
    rows: Sequence[SourceRow], wanted: DatasetFormat, objective: Objective = "sft", faults: Faults | None = None
) -> tuple[str, list[SourceRow]]:
    """Return the format of ``rows``, ``wanted`` or what their columns say where it is ``auto``, and the rows that have it.

    :param faults: takes the rows whose columns fit no format, where most do; without it they are an error.
    :raises DataInvalid: rows differ in format, or have none.
    """
    if wanted != "auto":
        if wanted not in OBJECTIVE_FORMATS[objective]:
            suited = ", ".join(OBJECTIVE_FORMATS[objective])
            raise DataInvalid(f"dataset.format {wanted} is not what the objective {objective} learns from; it needs {suited}")
        return wanted, list(rows)
    first: dict[str, str] = {}
    seen: dict[frozenset[str], str | DataInvalid] = {}
    fitting: list[SourceRow] = []
    failed: list[tuple[SourceRow, DataInvalid]] = []
    for row in rows:
        columns = frozenset(name for name, value in row.value.items() if value is not None)
        if columns not in seen:
            try:
                seen[columns] = detect_format(columns, objective)
            except DataInvalid as error:
                seen[columns] = error
        known = seen[columns]
        if isinstance(known, DataInvalid):
            failed.append((row, known))
            continue
        first.setdefault(known, row.where)
        fitting.append(row)
    if failed and (faults is None or not fitting):
        row, problem = failed[0]
        raise DataInvalid(f"{row.where}: {problem.message}")
    if len(first) > 1:
        mixed = ", ".join(f"{name} (first at {where})" for name, where in first.items())
        raise DataInvalid(f"the dataset mixes formats: {mixed}. Put each format in a dataset of its own, or convert them to one")
    for row, _ in failed:
        if faults is not None:
            listed = ", ".join(sorted(name for name, value in row.value.items() if value is not None)) or "none"
            faults.add(row.where, f"the columns ({listed}) are not those of the other rows")
    if not first:
        raise DataInvalid("the dataset has no rows")
    return next(iter(first)), fitting


def rename_columns(rows: Sequence[SourceRow], columns: Mapping[str, str]) -> list[SourceRow]:
    """Return ``rows`` with the names that the formats have.

    :param columns: names in the data, by the names that they become.
    :raises DataInvalid: no row has a column of a name in ``columns``.
    """
    if not columns:
        return list(rows)
    present = {name for row in rows for name in row.value}
    for name, column in columns.items():
        if rows and column not in present:
            listed = ", ".join(sorted(present)[:20]) or "none"
            raise DataInvalid(f"dataset.columns.{name}: no row has a column {column!r}; the columns are {listed}")
    taken = set(columns.values()) | set(columns)
    return [
        SourceRow(
            {
                **{name: value for name, value in row.value.items() if name not in taken},
                **{name: row.value[column] for name, column in columns.items() if column in row.value},
            },
            row.where,
        )
        for row in rows
    ]


def normalise(rows: Sequence[SourceRow], format_: str, faults: Faults | None = None) -> list[Row]:
    """Return ``rows`` in TRL's shapes, in order; see :func:`normalise_placed`."""
    return [row.value for row in normalise_placed(rows, format_, faults)]


def normalise_placed(rows: Sequence[SourceRow], format_: str, faults: Faults | None = None) -> list[SourceRow]:
    """Return ``rows`` in TRL's shapes, in order, each with its place.

    :param faults: takes the rows that don't have the shape; without it they are an error.
    :raises DataInvalid: up to 20 of the rows that don't have the shape, with file and line, all at once.
    """
    if format_ not in get_args(DatasetFormat) or format_ == "auto":
        raise DataInvalid(f"dataset.format {format_!r} is not one of {', '.join(NEEDS)}")
    convert = _CONVERTERS[format_]
    found, normalised = Faults() if faults is None else faults, []
    for row in rows:
        try:
            refuse_unsupported(row.value)
            normalised.append(SourceRow(convert(row.value), row.where))
        except Malformed as error:
            found.add(row.where, str(error))
    if faults is None:
        found.raise_if_any(f"rows that don't fit the format {format_} ({NEEDS[format_]})")
    kinds: dict[bool, str] = {}
    for row in normalised:
        kinds.setdefault(_is_conversation(row.value), row.where)
    if len(kinds) > 1:
        raise DataInvalid(
            f"some rows have lists of messages (first at {kinds[True]}), others texts in prompt and answers (first at {kinds[False]}); "
            "convert them to one of the two"
        )
    return normalised


def _is_conversation(row: Row) -> bool:
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


_CONVERTERS: Final[dict[str, Any]] = {
    "messages": _from_messages,
    "prompt-completion": _from_pair,
    "instruction": _from_instruction,
    "sharegpt": _from_sharegpt,
    "text": _from_text,
    "preference": from_preference,
    "unpaired-preference": from_unpaired,
    "prompt": from_prompt,
}
