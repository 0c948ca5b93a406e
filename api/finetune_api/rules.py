"""Rules that a type can't express, each said once for all of its readers.

A :class:`Rule` holds, side by side, the CEL expression by which the API server refuses a manifest and the Python predicate by which
everything else does: the command line, local runs, and an operator whose cluster still has an older CRD. A test draws values at
random and holds the two to the same answer.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Self

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

CEL_KEY = "x-kubernetes-validations"
"""Keyword of a CRD's schema that holds its CEL rules."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule over a value, which CEL knows as ``self``.

    Neither side may fail on a value of the right type, however wrong: the API server asks its rules about text that does not even
    match its pattern.
    """

    cel: str | None
    """What must be true, in Kubernetes' CEL. None where CEL can't see it: the API server then goes by ``json_schema``."""
    holds: Callable[[Any], bool]
    """What must be true, in Python."""
    message: str
    """What is wrong where it is not, and how to mend it; it follows the field's path."""
    field: str | None = None
    """Path, below an object, of the field that is to blame: JSON names joined by dots."""
    json_schema: dict[str, Any] | None = None
    """What must be true in JSON Schema, for editors, where it can say it."""

    @classmethod
    def matching(cls, pattern: str, message: str) -> Self:
        """Return the rule that text matches ``pattern``, which must mean the same to RE2, to Python and to ECMAScript."""
        expression = re.compile(pattern)
        return cls(
            cel=f"self.matches({quote_cel(pattern)})",
            holds=lambda text: expression.search(text) is not None,
            message=message,
            json_schema={"pattern": pattern},
        )

    @classmethod
    def refusing(cls, pattern: str, message: str) -> Self:
        """Return the rule that text doesn't match ``pattern``; see :meth:`matching`."""
        rule = cls.matching(pattern, message)
        return cls(f"!{rule.cel}", lambda text: not rule.holds(text), message, json_schema={"not": {"pattern": pattern}})

    def to_schema(self) -> dict[str, str]:
        """Return the rule, which has CEL, as an entry of ``x-kubernetes-validations``."""
        assert self.cel is not None  # noqa: S101  # callers ask only for rules in CEL
        entry = {"rule": self.cel, "message": self.message}
        return entry if self.field is None else {**entry, "fieldPath": f".{self.field}"}


def quote_cel(text: str) -> str:
    """Return ``text`` as a string of CEL."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


class RulesBroken(ValueError):
    """A value that breaks rules: ``rules`` has all of them."""

    def __init__(self, rules: list[Rule]) -> None:
        super().__init__("; ".join(rule.message for rule in rules))
        self.rules = rules


def check(rules: Iterable[Rule], value: object) -> None:
    """Hold ``value`` to ``rules``.

    :raises RulesBroken: names every rule that is broken.
    """
    broken = [rule for rule in rules if not rule.holds(value)]
    if broken:
        raise RulesBroken(broken)


def add_to_schema(rules: Iterable[Rule], schema: dict[str, Any]) -> None:
    """Append ``rules`` to the CEL rules of ``schema``, and to its `allOf` what JSON Schema can say of them; in place."""
    for rule in rules:
        if rule.cel is not None:
            schema[CEL_KEY] = [*schema.get(CEL_KEY, []), rule.to_schema()]
        if rule.json_schema is not None:
            schema["allOf"] = [*schema.get("allOf", []), rule.json_schema]


class Obeys:
    """Annotation that holds a field's value to rules: ``Annotated[str, Obeys(rule)]``."""

    def __init__(self, *rules: Rule) -> None:
        self.rules = rules

    def __get_pydantic_core_schema__(self, source: type, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._checked, handler(source))

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        schema = handler(core)
        add_to_schema(self.rules, schema)
        return schema

    def _checked(self, value: object) -> object:
        check(self.rules, value)
        return value


class UniqueBy:
    """Annotation of a list of objects of which no two have the same ``key``: a map, to the API server."""

    def __init__(self, key: str) -> None:
        self.key = key

    def __get_pydantic_core_schema__(self, source: type, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._checked, handler(source))

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {**handler(core), "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": [self.key]}

    def _checked(self, value: list[Any]) -> list[Any]:
        keys = [getattr(item, self.key) for item in value]
        twice = sorted({key for key in keys if keys.count(key) > 1})
        if twice:
            raise ValueError(f"must not have the same {self.key} twice: {', '.join(map(str, twice))}")
        return value
