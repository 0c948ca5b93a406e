"""The smallest merge patch from one status to the next; nothing where nothing changed."""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel


def build_status_patch(current: Mapping[str, Any], desired: BaseModel) -> dict[str, Any]:
    """Return the RFC 7386 patch that turns the status ``current`` (as read) into ``desired``.

    Fields that a newer release wrote and this one doesn't know are left as they are. Lists are replaced whole.
    """
    wanted = desired.model_dump(mode="json", exclude_none=True)
    known = {field.alias for field in type(desired).model_fields.values() if field.alias}
    patch = {key: merge_value(current.get(key), value) for key, value in wanted.items() if current.get(key) != value}
    return patch | {key: None for key in current if key in known and key not in wanted}


def merge_value(before: object, after: object) -> object:
    """Return what a merge patch must hold to turn ``before`` into ``after``: keys that are to go are named with null."""
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        return {**{key: None for key in before if key not in after}, **{key: merge_value(before.get(key), after[key]) for key in after}}
    return after
