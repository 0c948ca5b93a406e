"""Rules that a type can't express, each said once for both of its readers.

A :class:`Rule` holds, side by side, the CEL expression by which the API server refuses a manifest and the Python predicate by which
everything else does: the command line, local runs, and an operator whose cluster still has an older CRD. A test draws values at
random and holds the two to the same answer.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

CEL_KEY = "x-kubernetes-validations"
"""Keyword of a CRD's schema that holds its CEL rules."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule over a value, which CEL knows as ``self``.

    A predicate is only asked about a value whose own parts are sound, as the API server does too.
    """

    cel: str
    """What must be true, in Kubernetes' CEL."""
    holds: Callable[[Any], bool]
    """What must be true, in Python."""
    message: str
    """What is wrong where it is not, and how to mend it; it follows the field's path."""
    field: str | None = None
    """JSON name of the field of an object that is to blame."""

    def to_schema(self) -> dict[str, str]:
        """Return the rule as an entry of ``x-kubernetes-validations``."""
        entry = {"rule": self.cel, "message": self.message}
        return entry if self.field is None else {**entry, "fieldPath": f".{self.field}"}


def check(rules: Iterable[Rule], value: Any) -> None:
    """Hold ``value`` to ``rules``.

    :raises ValueError: names every rule that is broken.
    """
    faults = [rule.message for rule in rules if not rule.holds(value)]
    if faults:
        raise ValueError("; ".join(faults))


def add_to_schema(rules: Iterable[Rule], schema: dict[str, Any]) -> None:
    """Append ``rules`` to the CEL rules of ``schema``, in place."""
    entries = [rule.to_schema() for rule in rules]
    if entries:
        schema[CEL_KEY] = [*schema.get(CEL_KEY, []), *entries]


class Obeys:
    """Annotation that holds a field's value to rules: ``Annotated[str, Obeys(rule)]``."""

    def __init__(self, *rules: Rule) -> None:
        self.rules = rules

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        def validate(value: Any) -> Any:
            check(self.rules, value)
            return value

        return core_schema.no_info_after_validator_function(validate, handler(source))

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        schema = handler(core)
        add_to_schema(self.rules, schema)
        return schema
