"""The shapes that a dataset's rows may have, how they are told apart, and what each becomes.

Everything here is pure. Rows come out in TRL's own shapes: ``{"messages": [...]}``, ``{"prompt": ..., "completion": ...}`` (two
texts, or two lists of messages) or ``{"text": ...}``.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, get_args

from finetune_api.spec.source import DatasetFormat
from finetune_trainer.errors import DataInvalid

Row = dict[str, Any]
Message = dict[str, str]
MAX_FAULTS: Final = 20
"""Faults that are listed before the count alone goes on."""

NEEDS: Final[dict[str, str]] = {
    "messages": 'a "messages" column: a list of {"role": "system"|"user"|"assistant", "content": "…"}',
    "prompt-completion": '"prompt" and "completion" columns: two texts, or two lists of messages',
    "instruction": '"instruction" and "output" columns, and optionally "input" and "system": texts',
    "sharegpt": 'a "conversations" column: a list of {"from": "system"|"human"|"gpt", "value": "…"}',
    "text": 'a "text" column',
}
"""What each format needs, for messages to people."""
_ROLES: Final = ("system", "user", "assistant")
_SHAREGPT_ROLES: Final = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
    "bot": "assistant",
}
_TOOLS: Final = ("tools", "functions", "tool_calls", "function_call")
_IMAGES: Final = ("image", "images", "pixel_values", "audio", "audios", "video", "videos")


@dataclass(frozen=True, slots=True)
class SourceRow:
    """A row as it was read, and where."""

    value: Row
    where: str
    """``file:line`` (or ``file, row N`` where there are no lines)."""


@dataclass(slots=True)
class Faults:
    """Faults of rows, collected so that a person sees them all at once."""

    listed: list[str] = field(default_factory=list)
    count: int = 0

    def add(self, where: str, what: str) -> None:
        """Note that ``what`` is wrong at ``where``."""
        self.count += 1
        if len(self.listed) < MAX_FAULTS:
            self.listed.append(f"{where}: {what}")

    def raise_if_any(self, heading: str) -> None:
        """:raises DataInvalid: there are faults."""
        if self.count:
            more = f"\n… and {self.count - len(self.listed)} more" if self.count > len(self.listed) else ""
            raise DataInvalid(f"{heading} ({self.count}):\n" + "\n".join(self.listed) + more)


def detect_format(columns: Iterable[str]) -> str:
    """Return the format that ``columns`` (the names of one row that have a value) stand for.

    :raises DataInvalid: they stand for none, or for more than one; the message lists them and what each format needs.
    """
    names = set(columns)
    found: list[str] = []
    if "messages" in names:
        found.append("messages")
    if "conversations" in names or "conversation" in names:
        found.append("sharegpt")
    if {"prompt", "completion"} <= names:
        found.append("prompt-completion")
    if {"instruction", "output"} <= names:
        found.append("instruction")
    if not found and "text" in names:
        found.append("text")
    if "instruction" in found and "prompt-completion" not in found and "messages" not in found and "sharegpt" not in found:
        return "instruction"
    if len(found) == 1:
        return found[0]
    listed = ", ".join(sorted(names)) or "none"
    needs = "; ".join(f"{name}: {need}" for name, need in NEEDS.items())
    problem = f"fit several formats ({', '.join(found)}); set dataset.format to one of them" if found else "fit no known format"
    raise DataInvalid(f"the columns ({listed}) {problem}. What each format needs: {needs}")


def choose_format(rows: Sequence[SourceRow], wanted: DatasetFormat) -> str:
    """Return the format of ``rows``: ``wanted``, or what their columns say where it is ``auto``.

    :raises DataInvalid: rows differ in format, or have none.
    """
    if wanted != "auto":
        return wanted
    first: dict[str, str] = {}
    seen: dict[frozenset[str], str] = {}
    for row in rows:
        columns = frozenset(name for name, value in row.value.items() if value is not None)
        if columns not in seen:
            try:
                seen[columns] = detect_format(columns)
            except DataInvalid as error:
                raise DataInvalid(f"{row.where}: {error.message}") from None
            first.setdefault(seen[columns], row.where)
    if len(first) > 1:
        mixed = ", ".join(f"{name} (first at {where})" for name, where in first.items())
        raise DataInvalid(f"the dataset mixes formats: {mixed}. Put each format in a dataset of its own, or convert them to one")
    return next(iter(first))


def normalise(rows: Sequence[SourceRow], format_: str) -> list[Row]:
    """Return ``rows`` in TRL's shapes, in order.

    :raises DataInvalid: up to 20 of the rows that don't have the shape, with file and line, all at once.
    """
    if format_ not in get_args(DatasetFormat) or format_ == "auto":
        raise DataInvalid(f"dataset.format {format_!r} is not one of {', '.join(NEEDS)}")
    convert = _CONVERTERS[format_]
    faults, normalised = Faults(), []
    for row in rows:
        try:
            _refuse_unsupported(row.value)
            normalised.append(convert(row.value))
        except _Malformed as error:
            faults.add(row.where, str(error))
    faults.raise_if_any(f"rows that don't fit the format {format_} ({NEEDS[format_]})")
    kinds = {_kind(row) for row in normalised}
    if len(kinds) > 1:
        raise DataInvalid("some rows have texts in prompt and completion, others lists of messages; convert them to one of the two")
    return normalised


class _Malformed(ValueError):
    """A row does not have its format's shape."""


def _kind(row: Row) -> tuple[str, bool]:
    return next(iter(row)), isinstance(next(iter(row.values())), list)


def _refuse_unsupported(row: Mapping[str, Any]) -> None:
    for name in _TOOLS:
        if row.get(name):
            raise _Malformed(f"has {name}; training on tool calls is not supported, remove the column")
    for name in _IMAGES:
        if row.get(name) is not None:
            raise _Malformed(f"has {name}; only text is supported, remove the column")


def _text(row: Mapping[str, Any], name: str, *, optional: bool = False) -> str:
    value = row.get(name)
    if value is None:
        if optional:
            return ""
        raise _Malformed(f"{name} is missing")
    if not isinstance(value, str):
        raise _Malformed(f"{name} is {_name_type(value)}, not a text")
    _check_unicode(value, name)
    return value


def _check_unicode(value: str, name: str) -> None:
    try:
        value.encode()
    except UnicodeEncodeError:  # JSON may carry half a surrogate pair, which no tokenizer takes
        raise _Malformed(f"{name} has half of a surrogate pair (\\ud800 to \\udfff), which is no text") from None


def _answer(row: Mapping[str, Any], name: str) -> str:
    value = _text(row, name)
    if not value.strip():
        raise _Malformed(f"{name} is empty: there is nothing to learn")
    return value


def _name_type(value: object) -> str:
    names = {dict: "an object", list: "a list", int: "a number", float: "a number", bool: "true or false", str: "a text", bytes: "bytes"}
    return names.get(type(value), f"a {type(value).__name__}")


def _messages(value: object, name: str, role_key: str = "role", content_key: str = "content") -> list[Message]:
    if not isinstance(value, (list, tuple)):
        raise _Malformed(f"{name} is {_name_type(value)}, not a list")
    if not value:
        raise _Malformed(f"{name} is empty")
    return [_message(item, f"{name}[{number}]", role_key, content_key) for number, item in enumerate(value)]


def _message(item: object, name: str, role_key: str, content_key: str) -> Message:
    if not isinstance(item, Mapping):
        raise _Malformed(f"{name} is {_name_type(item)}, not an object with {role_key} and {content_key}")
    if any(item.get(key) for key in _TOOLS):
        raise _Malformed(f"{name} has tool calls, which are not supported; remove them")
    role, content = item.get(role_key), item.get(content_key)
    if role in ("tool", "function", "function_call", "observation"):
        raise _Malformed(f"{name} has the role {role!r}; tool calls are not supported, remove them")
    known = _SHAREGPT_ROLES if role_key == "from" else {key: key for key in _ROLES}
    if not isinstance(role, str) or role not in known:
        raise _Malformed(f"{name}.{role_key} is {role!r}, not one of {', '.join(known)}")
    if isinstance(content, (list, tuple)):
        content = _join_parts(content, f"{name}.{content_key}")
    if not isinstance(content, str):
        raise _Malformed(f"{name}.{content_key} is {'missing' if content is None else _name_type(content)}, not a text")
    _check_unicode(content, f"{name}.{content_key}")
    return {"role": known[role], "content": content}


def _join_parts(parts: Sequence[object], name: str) -> str:
    """Return the text of content given as parts, as chat APIs write it: ``[{"type": "text", "text": "…"}]``."""
    texts: list[str] = []
    for part in parts:
        if not isinstance(part, Mapping) or part.get("type") != "text" or not isinstance(part.get("text"), str):
            kind = part.get("type") if isinstance(part, Mapping) else _name_type(part)
            raise _Malformed(f"{name} has a part of type {kind!r}; only text is supported")
        texts.append(str(part["text"]))
    return "".join(texts)


def _check_dialogue(messages: Sequence[Message], name: str) -> None:
    for number, message in enumerate(messages):
        if message["role"] == "system" and number > 0:
            raise _Malformed(f"{name}[{number}] is a system message; it must come first")
    if not any(message["role"] == "assistant" and message["content"].strip() for message in messages):
        raise _Malformed(f"{name} has no answer of the assistant: there is nothing to learn")


def _from_messages(row: Row) -> Row:
    messages = _messages(row.get("messages"), "messages")
    _check_dialogue(messages, "messages")
    return {"messages": messages}


def _from_sharegpt(row: Row) -> Row:
    name = "conversations" if "conversations" in row else "conversation"
    value = row.get(name)
    first = value[0] if isinstance(value, (list, tuple)) and value else None
    keys = ("role", "content") if isinstance(first, Mapping) and "from" not in first and "role" in first else ("from", "value")
    messages = _messages(value, name, *keys)
    if (system := _text(row, "system", optional=True)) and messages[0]["role"] != "system":
        messages.insert(0, {"role": "system", "content": system})
    _check_dialogue(messages, name)
    return {"messages": messages}


def _from_pair(row: Row) -> Row:
    prompt, completion = row.get("prompt"), row.get("completion")
    if isinstance(prompt, (list, tuple)) or isinstance(completion, (list, tuple)):
        prompts, completions = _messages(prompt, "prompt"), _messages(completion, "completion")
        if prompts[-1]["role"] == "assistant":
            raise _Malformed("prompt ends with an answer of the assistant; the answer to learn belongs in completion")
        if completions[0]["role"] != "assistant":
            raise _Malformed(f"completion begins with the role {completions[0]['role']}, not assistant")
        _check_dialogue([*prompts, *completions], "prompt + completion")
        return {"prompt": prompts, "completion": completions}
    return {"prompt": _text(row, "prompt"), "completion": _answer(row, "completion")}


def _from_instruction(row: Row) -> Row:
    instruction, addition = _text(row, "instruction"), _text(row, "input", optional=True)
    if not instruction.strip() and not addition.strip():
        raise _Malformed("instruction is empty")
    system = _text(row, "system", optional=True)
    prompt = [{"role": "system", "content": system}] if system.strip() else []
    prompt.append({"role": "user", "content": "\n\n".join(part for part in (instruction, addition) if part.strip())})
    return {"prompt": prompt, "completion": [{"role": "assistant", "content": _answer(row, "output")}]}


def _from_text(row: Row) -> Row:
    return {"text": _answer(row, "text")}


_CONVERTERS: Final = {
    "messages": _from_messages,
    "prompt-completion": _from_pair,
    "instruction": _from_instruction,
    "sharegpt": _from_sharegpt,
    "text": _from_text,
}
