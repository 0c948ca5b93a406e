"""The values in a row: texts and messages, taken out and checked. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

Message = dict[str, str]
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


class Malformed(ValueError):
    """A row does not have its format's shape."""


def refuse_unsupported(row: Mapping[str, Any]) -> None:
    """:raises Malformed: the row has tools, images or sounds, which would be learnt wrongly in silence."""
    for name in _TOOLS:
        if row.get(name):
            raise Malformed(f"has {name}; training on tool calls is not supported, remove the column")
    for name in _IMAGES:
        if row.get(name) is not None:
            raise Malformed(f"has {name}; only text is supported, remove the column")


def take_text(row: Mapping[str, Any], name: str, *, optional: bool = False) -> str:
    """Return the text in the column ``name``; an empty one where it is ``optional`` and missing.

    :raises Malformed: it is missing, or no text.
    """
    value = row.get(name)
    if value is None:
        if optional:
            return ""
        raise Malformed(f"{name} is missing")
    if not isinstance(value, str):
        raise Malformed(f"{name} is {name_type(value)}, not a text")
    _check_unicode(value, name)
    return value


def _check_unicode(value: str, name: str) -> None:
    try:
        value.encode()
    except UnicodeEncodeError:  # JSON may carry half a surrogate pair, which no tokenizer takes
        raise Malformed(f"{name} has half of a surrogate pair (\\ud800 to \\udfff), which is no text") from None


def take_answer(row: Mapping[str, Any], name: str) -> str:
    """Return the text in the column ``name``, which must not be empty.

    :raises Malformed: it is missing, empty, or no text.
    """
    value = take_text(row, name)
    if not value.strip():
        raise Malformed(f"{name} is empty: there is nothing to learn")
    return value


def name_type(value: object) -> str:
    """Return what ``value`` is, in JSON's words."""
    names = {dict: "an object", list: "a list", int: "a number", float: "a number", bool: "true or false", str: "a text", bytes: "bytes"}
    return names.get(type(value), f"a {type(value).__name__}")


def take_messages(value: object, name: str, role_key: str = "role", content_key: str = "content") -> list[Message]:
    """Return ``value``, which the column ``name`` holds, as messages.

    :raises Malformed: it is no list of messages.
    """
    if not isinstance(value, (list, tuple)):
        raise Malformed(f"{name} is {name_type(value)}, not a list")
    if not value:
        raise Malformed(f"{name} is empty")
    return [_message(item, f"{name}[{number}]", role_key, content_key) for number, item in enumerate(value)]


def _message(item: object, name: str, role_key: str, content_key: str) -> Message:
    if not isinstance(item, Mapping):
        raise Malformed(f"{name} is {name_type(item)}, not an object with {role_key} and {content_key}")
    if any(item.get(key) for key in _TOOLS):
        raise Malformed(f"{name} has tool calls, which are not supported; remove them")
    role, content = item.get(role_key), item.get(content_key)
    if role in ("tool", "function", "function_call", "observation"):
        raise Malformed(f"{name} has the role {role!r}; tool calls are not supported, remove them")
    known = _SHAREGPT_ROLES if role_key == "from" else {key: key for key in _ROLES}
    if not isinstance(role, str) or role not in known:
        raise Malformed(f"{name}.{role_key} is {role!r}, not one of {', '.join(known)}")
    if isinstance(content, (list, tuple)):
        content = _join_parts(content, f"{name}.{content_key}")
    if not isinstance(content, str):
        raise Malformed(f"{name}.{content_key} is {'missing' if content is None else name_type(content)}, not a text")
    _check_unicode(content, f"{name}.{content_key}")
    return {"role": known[role], "content": content}


def _join_parts(parts: Sequence[object], name: str) -> str:
    """Return the text of content given as parts, as chat APIs write it: ``[{"type": "text", "text": "…"}]``."""
    texts: list[str] = []
    for part in parts:
        if not isinstance(part, Mapping) or part.get("type") != "text" or not isinstance(part.get("text"), str):
            kind = part.get("type") if isinstance(part, Mapping) else name_type(part)
            raise Malformed(f"{name} has a part of type {kind!r}; only text is supported")
        texts.append(str(part["text"]))
    return "".join(texts)


def check_dialogue(messages: Sequence[Message], name: str) -> None:
    """:raises Malformed: a system message is not the first, or there is no answer of the assistant."""
    for number, message in enumerate(messages):
        if message["role"] == "system" and number > 0:
            raise Malformed(f"{name}[{number}] is a system message; it must come first")
    if not any(message["role"] == "assistant" and message["content"].strip() for message in messages):
        raise Malformed(f"{name} has no answer of the assistant: there is nothing to learn")
