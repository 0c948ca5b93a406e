"""A patch of status that hangs on the status, and not on the resourceVersion, which moves with everybody's annotations.

A JSON patch (RFC 6902) may test what it finds. The API server applies it to whatever is newest, as often as others come in between.
"""

import json
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any, Final

import orjson

from finetune_operator.objects import Object

_ESCAPES: Final = str.maketrans({character: f"\\u{ord(character):04x}" for character in "<>&\u2028\u2029"})


def build_conditional_patch(seen: Object, patch: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the JSON patch that does to the status of ``seen`` what the merge patch ``patch`` does, as long as it still is that status.

    What else a decision reads is tested as well: the UID, the labels, and the generation, which counts every change of the
    specification and the request to delete. The API server answers 422 where one of them differs.
    """
    metadata, status = seen["metadata"], seen.get("status")
    decisive = {
        "/metadata/uid": metadata["uid"],
        "/metadata/generation": metadata.get("generation"),
        "/metadata/labels": metadata.get("labels"),
        "/status": status,
    }
    tests = [{"op": "test", "path": path, "value": orjson.Fragment(_write(value))} for path, value in decisive.items()]
    return [*tests, {"op": "add", "path": "/status", "value": apply_merge_patch(status, patch)}]


def apply_merge_patch(target: object, patch: object) -> Any:  # noqa: ANN401  any JSON value
    """Return ``target`` with ``patch`` applied (RFC 7386): null removes."""
    if not isinstance(patch, Mapping):
        return patch
    merged = dict(target) if isinstance(target, Mapping) else {}
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = apply_merge_patch(merged.get(key), value)
    return merged


def _write(value: object) -> str:
    """Return ``value`` in the API server's own spelling, Go's: a test compares numbers and strings as they are written."""
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).translate(_ESCAPES)
    if isinstance(value, float):
        return _write_float(value)
    if isinstance(value, Mapping):
        return f"{{{','.join(f'{_write(key)}:{_write(each)}' for key, each in value.items())}}}"
    if isinstance(value, Sequence):
        return f"[{','.join(map(_write, value))}]"
    return json.dumps(value)


def _write_float(value: float) -> str:
    if value and not 1e-6 <= abs(value) < 1e21:
        digits, _, exponent = repr(value).partition("e")
        return f"{digits.removesuffix('.0')}e{int(exponent):+d}"
    return format(Decimal(repr(value)), "f").removesuffix(".0")
