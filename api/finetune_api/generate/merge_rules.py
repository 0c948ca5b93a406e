"""All the CEL rules of a value in one, so that the API server looks each field up once.

To read one field of an object, the API server copies the schemas of all its fields. A rule alone pays that for every name in it, on
every write of the object and of its status: the rules cost more than everything else about it (decision 42). The merged rule reads what
several rules ask for once, into a variable; which of the rules is broken is worked out only where one is.

What may not change need not be asked about again: a rule that reads only such fields is asked when the object comes, and never after
(decision 43).
"""

import json
import re
from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Any, Final

from finetune_api.generate.model_schema import Schema
from finetune_api.rules import CEL_KEY, quote_cel

Rules = list[dict[str, str]]
Path = tuple[str, ...]

_TOKEN: Final = re.compile(
    r"'(?:\\.|[^'\\])*'|\bhas\(self(?P<asked>(?:\.[A-Za-z_]\w*)+)\)|\bself(?P<read>(?:\.[A-Za-z_]\w*)+)(?P<call>\()?"
)
"""A string, which is passed over; a field that is asked for by `has`; or a path of fields that is read, perhaps with a method after it."""
_UNSURE: Final = re.compile(r"'(?:\\.|[^'\\])*'|(?P<end>\|\||&&|[?])")
_WHOLE: Final = re.compile(r"\bself\b")
"""The value itself, where what reads fields of it is taken away."""
_ASKED: Final = "has "
"""Before a field's name in a path: whether it is there, and not what it is."""
_ENVELOPE: Final = "metadata"
"""What the API server sees to itself: it is there in every resource, though no schema may say so."""
_ALL: Final = "several rules are broken; `finetune validate` names them"
"""Said where the API server can't work out which: it has a budget for that too."""


def merge_rules(schema: Schema, mutable: AbstractSet[str], path: str = "") -> Schema:
    """Return the structural ``schema`` with at most two rules a value, transition rules left apart.

    One is of the fields that may not change, and asked once; the other is of the rules that read one of the ``mutable`` fields (paths
    from the root, joined by dots), and asked at every write. What lies in lists and maps keeps its rules: it is rarely there, and only
    the API server knows its index.
    """
    merged = dict(schema)
    if "properties" in schema:
        merged["properties"] = {name: merge_rules(below, mutable, f"{path}.{name}") for name, below in schema["properties"].items()}
    if rules := schema.get(CEL_KEY):
        lasting = [rule for rule in rules if not _is_transition(rule)]
        moving = [rule for rule in lasting if _reads_any(mutable, rule, path)]
        once = _merge([rule for rule in lasting if rule not in moving], schema, path)
        merged[CEL_KEY] = [*map(_ask_once, once), *_merge(moving, schema, path), *filter(_is_transition, rules)]
    return merged


def _reads_any(mutable: AbstractSet[str], rule: dict[str, str], path: str) -> bool:
    """True of a rule whose answer may be another after one of the ``mutable`` fields has changed."""
    here = tuple(filter(None, path.split(".")))
    expression = rule["rule"]
    reads = {_split(match)[0] for match in _TOKEN.finditer(expression) if not match[0].startswith("'")}
    if _WHOLE.search(_TOKEN.sub("", expression)):
        reads.add(())
    names = {(*here, *(name.removeprefix(_ASKED) for name in read)) for read in reads}
    return any(first == second for change in mutable for name in names for first, second in [_cut(name, tuple(change.split(".")))])


def _cut(first: Path, second: Path) -> tuple[Path, Path]:
    """Cut two paths to the length of the shorter: they are equal then if one lies in the other."""
    length = min(len(first), len(second))
    return first[:length], second[:length]


def _ask_once(rule: dict[str, str]) -> dict[str, Any]:
    return {**rule, "rule": f"oldSelf.hasValue() || ({rule['rule']})", "optionalOldSelf": True}


def _is_transition(rule: dict[str, str]) -> bool:
    return "oldSelf" in rule["rule"]


def _merge(rules: Rules, schema: Schema, path: str) -> Rules:
    if len(rules) < 2:  # there is nothing to share
        return [{**rule, "rule": render(rule["rule"], schema)} for rule in rules]
    # Not a list that is filtered and joined: the API server takes any list that is made in an expression for one without end.
    told = (f"({render(rule['rule'], schema)} ? '' : {quote_cel(_tell(rule, path))})" for rule in rules)
    return [{"rule": share_lookups([rule["rule"] for rule in rules], schema), "message": _ALL, "messageExpression": " + ".join(told)}]


def _tell(rule: dict[str, str], path: str) -> str:
    """Say in a sentence what is wrong, and with which field: the merged rule itself has but one path, that of the object."""
    field_path = f"{path}{rule['fieldPath']}: ".removeprefix(".") if "fieldPath" in rule else ""
    return f"{field_path}{rule['message']}. "


@dataclass(slots=True)
class _Read:
    """A field that the rules read, and what they read below it."""

    sure: int = 0
    """In how many places it is read whatever the values are."""
    below: dict[str, "_Read"] = field(default_factory=dict)
    is_safe: bool = False
    """Whether it can be read whatever the object is."""
    bound: bool = False
    """Whether it gets a variable."""

    def bind(self, schema: Schema) -> int:
        """Choose what gets a variable; return how often this field is read then for sure, if it gets none."""
        reads = self.sure
        for name, read in self.below.items():
            below = _field(schema, name)
            lookups = read.bind(below)
            # A section that may be left out is read as an optional value, which is there in any case.
            read.is_safe = _is_always_there(schema, name) or ("properties" in below and bool(read.below))
            read.bound = lookups > 1 and read.is_safe
            reads += 1 if read.bound else lookups
        return reads

    def walk(self, path: Path = ()) -> Iterator[Path]:
        """Yield the paths of what has a variable, the outer ones first; nothing is read below what may be absent."""
        for name, read in self.below.items():
            if read.bound:
                yield (*path, name)
            if read.is_safe:
                yield from read.walk((*path, name))


def _field(schema: Schema, name: str) -> Schema:
    below: Schema = schema.get("properties", {}).get(name, {})
    return below


def _is_always_there(schema: Schema, name: str) -> bool:
    below = _field(schema, name)
    return (
        name.startswith(_ASKED)
        or name == _ENVELOPE
        or (("default" in below or name in schema.get("required", ())) and not below.get("nullable"))
    )


def share_lookups(expressions: list[str], schema: Schema) -> str:
    """Return what is true of an object of ``schema`` if all ``expressions`` are, so that it reads no field twice for nothing."""
    root = _Read()
    for expression in expressions:
        end = _find_sure_end(expression)
        for match in _TOKEN.finditer(expression):
            read = root
            for name in _split(match)[0]:
                read = read.below.setdefault(name, _Read())
            read.sure += match.end() <= end
    root.bind(schema)
    bound = list(root.walk())
    shared = " && ".join(f"({render(expression, schema, bound)})" for expression in expressions)
    for path in reversed(bound):
        shared = f"[{_name(path, schema, bound[: bound.index(path)])}].all({_variable(path)}, {shared})"
    return shared


def render(expression: str, schema: Schema, bound: Sequence[Path] = ()) -> str:
    """Return ``expression``, which reads an object of ``schema`` as if nothing were left out, so that it reads what is stored.

    :param bound: the paths that have a variable.
    """

    def replace(match: re.Match[str]) -> str:
        path, rest = _split(match)
        return f"{_name(path, schema, bound)}{rest}" if path else match[0]

    return _TOKEN.sub(replace, expression)


def _find_sure_end(expression: str) -> int:
    """Return where the part ends that is worked out whatever the values are."""
    return next((match.start() for match in _UNSURE.finditer(expression) if match["end"]), len(expression))


def _split(match: re.Match[str]) -> tuple[Path, str]:
    """Split what was matched into the path that is read, which is empty for a string, and the method behind it."""
    if match["asked"]:
        *path, last = match["asked"].removeprefix(".").split(".")
        return (*path, _ASKED + last), ""
    path = (match["read"] or "").removeprefix(".").split(".")
    if match["call"]:
        return tuple(path[:-1]), f".{path[-1]}("
    return tuple(filter(None, path)), ""


def _name(path: Path, schema: Schema, bound: Sequence[Path]) -> str:
    """Return the expression that reads ``path``.

    Below an object that may be left out everything is optional in CEL's sense: a field has its default there, an object stays optional.
    """
    known = next((path[:length] for length in range(len(path), 0, -1) if path[:length] in bound), ())
    name = _variable(known) if known else "self"
    optional = False
    for place, part in enumerate(path, start=1):
        is_there, is_asked, part_name = _is_always_there(schema, part), part.startswith(_ASKED), part.removeprefix(_ASKED)
        schema = _field(schema, part)
        left_out = optional or (not is_there and "properties" in schema)
        if place > len(known):
            if is_asked and not left_out:
                return f"has({name}.{part_name})"
            name += f".?{part_name}" if left_out else f".{part_name}"
            if is_asked:
                return f"{name}.hasValue()"
        optional = left_out
    if not optional or "properties" in schema or path == known:
        return name
    return f"{name}.orValue({_literal(schema)})" if "default" in schema else f"{name}.value()"


def _literal(schema: Schema) -> str:
    """Return the default of a field as CEL."""
    value = schema["default"]
    if schema["type"] == "string":
        return quote_cel(value)
    return json.dumps(float(value) if schema["type"] == "number" else value)


def _variable(path: Path) -> str:
    return f"_{'_'.join(path)}".replace(" ", "_")
