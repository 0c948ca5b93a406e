"""Objects that a manifest leaves out stay out: the API server stores what was said, and who reads it fills in the rest.

A CRD's default writes an object in full into every run that doesn't mention it, and each of its fields is then checked, encoded, decoded
and tracked at every write. That was half of what a FineTuneJob's creation cost (decision 49). An object that is mentioned still gets the
defaults of its fields.
"""

from typing import Final

from finetune_api.generate.kinds import ResourceKind
from finetune_api.generate.model_schema import Schema

_SPEC: Final = "spec."


def leave_out(spec: Schema, kind: ResourceKind) -> None:
    """Take the defaults of whole objects out of the structural schema of a specification, in place.

    Not of those that somebody beside us reads or writes field by field: a column of `kubectl get` shows a field of it, or one may be
    set later, which needs an object to be set in.
    """
    columns = {path.removeprefix(f".{_SPEC}") for _, _, path, _, _ in kind.columns if path.startswith(f".{_SPEC}")}
    _leave_out(spec, "", columns | kind.mutable_fields)


def _leave_out(schema: Schema, prefix: str, used: set[str] | frozenset[str]) -> None:
    for name, field in schema.get("properties", {}).items():
        below = f"{prefix}{name}."
        if "properties" not in field:
            continue
        if not any(path.startswith(below) for path in used):
            field.pop("default", None)
        _leave_out(field, below, used)
