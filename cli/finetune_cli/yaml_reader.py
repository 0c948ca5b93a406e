"""Reads YAML as kubectl does, and remembers where each value stood.

kubectl's reader takes ``2e-4`` for a number, ``2024-01-01`` and ``1:30`` for text and ``y`` for true; PyYAML's own resolver differs in
all of these. An integration test holds this reader to kubectl's answers.
"""

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import yaml

MAX_CHARACTERS: Final = 1_500_000
"""Longest text that is read; an API server takes no larger object."""
MAX_NODES: Final = 50_000
"""Most values in one document, aliases counted each time they are used: a few lines of aliases can stand for billions."""

_TRUE: Final = frozenset({"y", "Y", "yes", "Yes", "YES", "true", "True", "TRUE", "on", "On", "ON"})
_FALSE: Final = frozenset({"n", "N", "no", "No", "NO", "false", "False", "FALSE", "off", "Off", "OFF"})
_NULL: Final = frozenset({"", "~", "null", "Null", "NULL"})
_SPECIAL: Final = {".inf": math.inf, "+.inf": math.inf, "-.inf": -math.inf, ".nan": math.nan}
_INTEGER: Final = re.compile(r"[-+]?(0b(?P<two>[01]+)|0x(?P<sixteen>[0-9a-fA-F]+)|0o?(?P<eight>[0-7]+)|(?P<ten>0|[1-9][0-9]*))")
_FLOAT: Final = re.compile(r"[-+]?([.][0-9]+|[0-9]+([.][0-9]*)?)([eE][-+]?[0-9]+)?")
_LONGEST_NUMBER: Final = 400
_BASES: Final = {"two": 2, "eight": 8, "ten": 10, "sixteen": 16}
_TAG: Final = "tag:yaml.org,2002:"
_MERGE: Final = f"{_TAG}merge"


class YamlInvalid(ValueError):
    """Text that is no YAML, or not as kubectl takes it."""

    def __init__(self, message: str, line: int | None) -> None:
        super().__init__(message)
        self.line = line
        """Line that is to blame, from 1."""


@dataclass(frozen=True)
class Document:
    """One document of a file."""

    value: Any
    """What it says, as JSON values."""
    node: yaml.Node
    """Where it says it."""

    def find_line(self, path: tuple[str | int, ...]) -> int:
        """Return the line, from 1, of the value at ``path``, or of the nearest one around it that there is."""
        node, line = self.node, self.node.start_mark.line
        for part in path:
            if isinstance(node, yaml.MappingNode):
                found = [(key, value) for key, value in node.value if key.value == part]
                if not found:
                    break
                key, node = found[-1]
                line = key.start_mark.line
            elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
                node = node.value[part]
                line = node.start_mark.line
            else:
                break
        return int(line) + 1


def read_documents(text: str) -> Iterator[Document]:
    """Yield the documents of ``text`` that are not empty.

    :raises YamlInvalid: at the first one that can't be read.
    """
    if len(text) > MAX_CHARACTERS:
        raise YamlInvalid(f"is longer than {MAX_CHARACTERS} characters, which no API server takes", None)
    try:
        loader = _Loader(text)
        while loader.check_node():
            node = loader.get_node()
            if node is None:  # the end, by PyYAML's types; check_node has just said otherwise
                break
            _check(node)
            value = loader.construct_document(node)
            if value is not None:
                yield Document(value, node)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise YamlInvalid(error.problem or error.context or "can't be read", mark.line + 1 if mark else None) from None
    except yaml.reader.ReaderError as error:
        raise YamlInvalid(f"holds a character that YAML doesn't allow: {error.reason}", text.count("\n", 0, error.position) + 1) from None
    except RecursionError:
        raise YamlInvalid("is nested too deeply", None) from None


def read_scalar(text: str) -> str | int | float | bool | None:
    """Return what kubectl takes the plain scalar ``text`` for."""
    if text in _NULL:
        return None
    if text in _TRUE or text in _FALSE:
        return text in _TRUE
    if text.lower() in _SPECIAL:
        return _SPECIAL[text.lower()]
    digits = text.replace("_", "") if not text.startswith("_") else text
    if len(digits) > _LONGEST_NUMBER:
        return text
    if match := _INTEGER.fullmatch(digits):
        (base, number), *_ = ((base, number) for base, number in match.groupdict().items() if number is not None)
        return int(number, _BASES[base]) * (-1 if digits.startswith("-") else 1)
    if not _FLOAT.fullmatch(digits):
        return text
    real = float(digits)
    if not math.isfinite(real):
        return text
    # JSON has one kind of number, and Go writes whole ones without a point.
    return int(real) if real.is_integer() and abs(real) < 1e21 else real


class _Loader(yaml.SafeLoader):
    """SafeLoader with kubectl's scalars, and with JSON's types only."""

    def resolve(self, kind: type[yaml.Node], value: Any, implicit: Any) -> str:  # noqa: ANN401  # PyYAML's
        if kind is not yaml.ScalarNode or not implicit[0]:
            return str(super().resolve(kind, value, implicit))  # type: ignore[no-untyped-call]
        if value == "<<":
            return _MERGE
        return _TAG + _tag_of(read_scalar(value))

    def construct_plain(self, node: yaml.ScalarNode) -> str | int | float | bool | None:
        return read_scalar(str(node.value))

    def construct_keyed(self, node: yaml.MappingNode) -> dict[str, Any]:
        self.flatten_mapping(node)
        return {_as_key(self.construct_object(key, deep=True)): self.construct_object(value, deep=True) for key, value in node.value}

    def construct_listed(self, node: yaml.SequenceNode) -> list[Any]:
        return [self.construct_object(item, deep=True) for item in node.value]

    def refuse(self, node: yaml.Node) -> None:
        raise yaml.constructor.ConstructorError(None, None, f"the tag {node.tag} is not taken by kubectl", node.start_mark)


_Loader.yaml_constructors = {
    **{f"{_TAG}{name}": _Loader.construct_plain for name in ("null", "bool", "int", "float")},
    f"{_TAG}str": yaml.SafeLoader.construct_yaml_str,
    f"{_TAG}merge": yaml.SafeLoader.construct_yaml_str,
    f"{_TAG}map": _Loader.construct_keyed,
    f"{_TAG}seq": _Loader.construct_listed,
    None: _Loader.refuse,
}


def _tag_of(value: object) -> str:
    return {type(None): "null", bool: "bool", int: "int", float: "float"}.get(type(value), "str")


def _as_key(key: object) -> str:
    if isinstance(key, (dict, list)):
        raise yaml.constructor.ConstructorError(None, None, "a key must be a plain value", None)
    return key if isinstance(key, str) else json.dumps(key)


def _check(root: yaml.Node) -> None:
    """Refuse duplicate keys, aliases that hold themselves, and documents that aliases blow up."""
    seen = 0
    pending: list[tuple[yaml.Node, frozenset[int]]] = [(root, frozenset())]
    while pending:
        node, around = pending.pop()
        seen += 1
        if seen > MAX_NODES:
            raise YamlInvalid(f"holds more than {MAX_NODES} values", node.start_mark.line + 1)
        if id(node) in around:
            raise YamlInvalid("holds an alias to what it is part of", node.start_mark.line + 1)
        if isinstance(node, yaml.MappingNode):
            keys: set[str] = set()
            for key, value in node.value:
                if isinstance(key, yaml.ScalarNode) and key.tag != _MERGE and key.value in keys:
                    raise YamlInvalid(f"the key {key.value!r} is given twice", key.start_mark.line + 1)
                keys.add(str(key.value))
                pending += [(key, around | {id(node)}), (value, around | {id(node)})]
        elif isinstance(node, yaml.SequenceNode):
            pending += [(item, around | {id(node)}) for item in node.value]
