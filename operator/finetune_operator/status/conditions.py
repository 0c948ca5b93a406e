"""Conditions: one list, each type once, whose transition time moves only with its status."""

from collections.abc import Iterable
from datetime import datetime
from typing import Final, Literal

from finetune_api.reasons import Reason
from finetune_api.status import Condition, ConditionType

MAX_MESSAGE: Final = 4096
"""Most characters of a message, as the CRD has it."""

State = tuple[ConditionType, bool | None, Reason, str]
"""A condition to be: type, truth (None: unknown), reason, message."""


def build_conditions(
    previous: Iterable[Condition],
    states: Iterable[State],
    *,
    generation: int,
    now: datetime,
) -> list[Condition]:
    """Return the conditions for ``states``, in their order."""
    known = {condition.type: condition for condition in previous}
    conditions = []
    for kind, truth, reason, message in states:
        status = _as_status(truth)
        before = known.get(kind)
        since = before.last_transition_time if before is not None and before.status == status else now
        conditions.append(
            Condition(
                type=kind,
                status=status,
                reason=reason,
                message=message if len(message) <= MAX_MESSAGE else message[: MAX_MESSAGE - 1] + "…",
                last_transition_time=since,
                observed_generation=generation,
            )
        )
    return conditions


def _as_status(truth: bool | None) -> Literal["True", "False", "Unknown"]:  # noqa: FBT001  # a condition's status is a truth value
    return "Unknown" if truth is None else "True" if truth else "False"
