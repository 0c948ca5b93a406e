"""A specification doesn't change: transition rules for every field of it but the few that may.

Each field has a rule of its own, so that the refusal names it. A rule on a field is asked only while the field is there before and
after; for a field that may be absent, its object has a second rule.
"""

from finetune_api.generate.kinds import ResourceKind
from finetune_api.generate.model_schema import Schema
from finetune_api.rules import CEL_KEY


def add_immutability(spec: Schema, kind: ResourceKind) -> None:
    """Add the transition rules of ``kind`` to the structural schema of its specification, in place."""
    _close(spec, ("spec",), kind)


def _close(schema: Schema, path: tuple[str, ...], kind: ResourceKind) -> None:
    presence: list[dict[str, str]] = []
    for name, field in schema["properties"].items():
        below = (*path, name)
        if ".".join(below[1:]) in kind.mutable_fields:
            continue
        if "default" not in field and name not in schema.get("required", ()):
            rule = f"has(self.{name}) == has(oldSelf.{name})"
            presence.append({"rule": rule, "message": _refusal(below, kind), "fieldPath": f".{name}"})
        if "properties" in field:
            _close(field, below, kind)
        else:
            field.setdefault(CEL_KEY, []).append({"rule": "self == oldSelf", "message": _refusal(below, kind)})
    if presence:
        schema[CEL_KEY] = [*schema.get(CEL_KEY, []), *presence]


def _refusal(path: tuple[str, ...], kind: ResourceKind) -> str:
    return f"{'.'.join(path)} is immutable: create a new {kind.kind} to change it"
