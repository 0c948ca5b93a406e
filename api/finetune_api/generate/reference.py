"""The API reference in Markdown: every field of spec and status, every reason, every exit code."""

import ast
import inspect
from collections.abc import Iterator
from enum import Enum
from typing import Any, Final

from finetune_api.exit_codes import OUTCOMES, ExitCode
from finetune_api.generate.crd import build_openapi_schema
from finetune_api.generate.kinds import FINETUNE_JOB, FINETUNE_SWEEP, ResourceKind
from finetune_api.generate.model_schema import Schema
from finetune_api.names import API_VERSION
from finetune_api.reasons import Reason
from finetune_api.rules import CEL_KEY
from finetune_api.status import ConditionType, Phase
from finetune_api.sweep.status import SweepPhase

_TOLD_ELSEWHERE: Final = ("template.spec",)
"""Fields whose parts have a page of their own."""
_RETRY: Final = {
    "never": "no: the run fails at once",
    "counted": "yes, at most `backoffLimit` times",
    "free": "yes, and it doesn't count against `backoffLimit`",
}


def build_job_reference() -> str:
    """Return the reference of the FineTuneJob as Markdown."""
    return "\n".join(
        [
            *_build_kind(FINETUNE_JOB),
            *_build_members("### Phases", "Phase", Phase),
            *_build_members("### Conditions", "Type", ConditionType),
            "### Reasons",
            "",
            "Reasons of conditions and Events. A reason never changes its meaning.",
            "",
            *_table(("Reason", "Meaning"), _member_rows(Reason)),
            "",
            "## Exit codes of the trainer",
            "",
            *_table(("Code", "Reason", "Meaning", "Tried again", "What to do"), _exit_code_rows()),
            "",
        ]
    )


def build_sweep_reference() -> str:
    """Return the reference of the FineTuneSweep as Markdown."""
    return "\n".join([*_build_kind(FINETUNE_SWEEP), *_build_members("### Phases", "Phase", SweepPhase)])


def _build_kind(kind: ResourceKind) -> list[str]:
    schema = build_openapi_schema(kind)
    spec = schema["properties"]["spec"]
    status = _field_rows(schema["properties"]["status"], "")
    mutable = ", ".join(f"`{path}`" for path in sorted(kind.mutable_fields))
    return [
        f"# {kind.kind} ({API_VERSION})",
        "",
        f"{schema['description']} Short name: `{kind.short_name}`.",
        "",
        "## Specification",
        "",
        f"The specification can't be changed after creation, but for {mutable}. To run something else, create another {kind.kind}.",
        "",
        *_table(("Field", "Type", "Default", "Limits", "Meaning"), _field_rows(spec, "")),
        "",
        "### What must fit together",
        "",
        *_table(("Object", "Rule"), _rule_rows(spec, "spec")),
        "",
        "## Status",
        "",
        *_table(("Field", "Type", "Limits", "Meaning"), (_without_default(row) for row in status)),
        "",
    ]


def _build_members(heading: str, title: str, enum: type[Enum]) -> list[str]:
    return [heading, "", *_table((title, "Meaning"), _member_rows(enum)), ""]


def read_member_docstrings(enum: type[Enum]) -> dict[str, str]:
    """Return the docstring under each member of ``enum``, by the member's name."""
    (definition,) = ast.parse(inspect.getsource(enum)).body
    if not isinstance(definition, ast.ClassDef):
        raise TypeError(f"{enum} is not a class")
    documented: dict[str, str] = {}
    for before, statement in zip(definition.body, definition.body[1:], strict=False):
        match before, statement:
            case ast.Assign(targets=[ast.Name(id=name)]), ast.Expr(value=ast.Constant(value=str(text))):
                documented[name] = " ".join(text.split())
    return documented


def _field_rows(schema: Schema, prefix: str) -> Iterator[tuple[str, ...]]:
    for name, field in schema["properties"].items():
        path = f"{prefix}{name}"
        default = "required" if name in schema.get("required", ()) else _show_default(field)
        yield (f"`{path}`", _show_type(field), default, _show_limits(field), field.get("description", ""))
        if path in _TOLD_ELSEWHERE:
            continue
        if "properties" in field:
            yield from _field_rows(field, f"{path}.")
        elif "properties" in field.get("items", {}):
            yield from _field_rows(field["items"], f"{path}[].")


def _rule_messages(schema: Schema) -> list[str]:
    return [rule["message"] for rule in schema.get(CEL_KEY, []) if "oldSelf" not in rule["rule"]]


def _rule_rows(schema: Schema, path: str) -> Iterator[tuple[str, str]]:
    if "properties" in schema:
        yield from ((f"`{path}`", message) for message in _rule_messages(schema))
    for name, field in schema.get("properties", {}).items():
        if not f"{path}.{name}".endswith(_TOLD_ELSEWHERE):
            yield from _rule_rows(field, f"{path}.{name}")
    if "items" in schema:
        yield from _rule_rows(schema["items"], f"{path}[]")


def _member_rows(enum: type[Enum]) -> Iterator[tuple[str, str]]:
    documented = read_member_docstrings(enum)
    for member in enum:
        yield (f"`{member.value}`", documented[member.name])


def _exit_code_rows() -> Iterator[tuple[str, ...]]:
    documented = read_member_docstrings(ExitCode)
    for code, outcome in OUTCOMES.items():
        retried = "" if code is ExitCode.COMPLETED else _RETRY[outcome.retry]
        yield (str(int(code)), f"`{outcome.reason.value}`", documented[code.name], retried, outcome.advice)


def _show_type(field: Schema) -> str:
    if field.get("x-kubernetes-int-or-string"):
        return "quantity"
    if field.get("x-kubernetes-preserve-unknown-fields"):
        return "text, number or truth value"
    if field.get("format") == "date-time":
        return "time"
    if field.get("type") == "array":
        return f"list of {_show_type(field['items'])}"
    if "additionalProperties" in field:
        return f"map of {_show_type(field['additionalProperties'])}"
    return str(field["type"]) + (" or null" if field.get("nullable") else "")


def _show_default(field: Schema) -> str:
    if "default" not in field or "properties" in field:
        return ""
    return f"`{_as_yaml(field['default'])}`"


def _as_yaml(value: Any) -> str:  # noqa: ANN401  # any value of JSON
    if isinstance(value, bool):
        return str(value).lower()
    return '""' if value == "" else str(value)


def _show_limits(field: Schema) -> str:
    limits: list[str] = []
    if "enum" in field:
        limits.append("one of " + ", ".join(f"`{value}`" for value in field["enum"]))
    for limit, exclusive, inside, outside in (("minimum", "exclusiveMinimum", "≥", ">"), ("maximum", "exclusiveMaximum", "≤", "<")):
        if limit in field:
            limits.append(f"{outside if field.get(exclusive) else inside} {field[limit]}")
    for keyword, text in (
        ("minLength", "at least {} characters"),
        ("maxLength", "at most {} characters"),
        ("maxItems", "at most {} items"),
        ("maxProperties", "at most {} entries"),
    ):
        if field.get(keyword, 0) > (1 if keyword == "minLength" else 0):
            limits.append(text.format(field[keyword]))
    if "pattern" in field and not field.get("x-kubernetes-int-or-string"):
        limits.append(f"`{field['pattern']}`")
    if "properties" not in field:
        limits += _rule_messages(field)
    return "; ".join(limits)


def _without_default(row: tuple[str, ...]) -> tuple[str, ...]:
    path, kind, _, limits, meaning = row
    return (path, kind, limits, meaning)


def _table(titles: tuple[str, ...], rows: Iterator[tuple[str, ...]]) -> list[str]:
    lines = [titles, tuple("---" for _ in titles), *rows]
    return [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines]
