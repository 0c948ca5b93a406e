"""A specification doesn't change: transition rules for every field of it but the few that may.

Each field has a rule of its own, so that the refusal names it. A rule on a field is asked only while the field is there before and
after; the fields that may be absent have a second rule together, on their object. That one looks at them only if the object has, before
or after, more than the fields that are always there: to count an object's fields costs the API server nothing, to look one up a copy of
the object's schema (decision 43).
"""

from finetune_api.generate.kinds import ResourceKind
from finetune_api.generate.model_schema import Schema
from finetune_api.rules import CEL_KEY, quote_cel


def add_immutability(spec: Schema, kind: ResourceKind) -> None:
    """Add the transition rules of ``kind`` to the structural schema of its specification, in place."""
    _close(spec, ("spec",), kind)


def _close(schema: Schema, path: tuple[str, ...], kind: ResourceKind) -> None:
    always = 0
    presence: dict[str, str] = {}
    for name, field in schema["properties"].items():
        below = (*path, name)
        is_always_there = "default" in field or name in schema.get("required", ())
        always += is_always_there
        if ".".join(below[1:]) in kind.mutable_fields:
            continue
        if not is_always_there:
            presence[f"has(self.{name}) == has(oldSelf.{name})"] = _refusal(below, kind)
        if "properties" in field:
            _close(field, below, kind)
        else:
            field.setdefault(CEL_KEY, []).append({"rule": "self == oldSelf", "message": _refusal(below, kind)})
    if presence:
        schema[CEL_KEY] = [*schema.get(CEL_KEY, []), _build_presence_rule(presence, always, path, kind)]


def _build_presence_rule(presence: dict[str, str], always: int, path: tuple[str, ...], kind: ResourceKind) -> dict[str, str]:
    """Return the rule that no field came or went, from what is asked of each field and said of it.

    :param always: how many fields the object has in any case: where it has no more, before and after, none can have come or gone.
    """
    told = (f"({asked} ? '' : {quote_cel(f'{refusal}. ')})" for asked, refusal in presence.items())
    return {
        # The type of an object has no size, but the object itself has one.
        "rule": f"dyn(self).size() == {always} && dyn(oldSelf).size() == {always} || ({' && '.join(presence)})",
        "message": f"the fields of {_refusal(path, kind)}",
        "messageExpression": " + ".join(told),
    }


def _refusal(path: tuple[str, ...], kind: ResourceKind) -> str:
    return f"{'.'.join(path)} is immutable: create a new {kind.kind} to change it"
