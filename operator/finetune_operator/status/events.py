"""Kubernetes Events for what a person would want to read in ``kubectl describe``."""

from datetime import datetime
from typing import Any, Final

from finetune_api.base import format_time
from finetune_api.names import API_VERSION, KIND
from finetune_api.reasons import Reason
from finetune_api.report import JobReference
from finetune_api.status import ConditionType, FineTuneJobStatus, Phase
from finetune_operator.status.diagnosis import NEEDS_HELP, NOT_ADMITTED, WAITS_IN_QUEUE

Manifest = dict[str, Any]
MAX_NOTE = 1024
"""Most characters of an Event's message."""
_ON_THE_WAY: Final = frozenset({Reason.WAITING_FOR_POD, Reason.STARTING})
"""Reasons that every run has for a moment."""
_SAYS_SO: Final = frozenset({Reason.INTERRUPTED, Reason.PREEMPTED, Reason.EVICTED})
"""Reasons of a run that was interrupted."""


def build_event(ref: JobReference, before: FineTuneJobStatus, after: FineTuneJobStatus, now: datetime) -> Manifest | None:
    """Return the Event for the step from ``before`` to ``after``, or None for a step not worth one."""
    old, new = _summary(before), _summary(after)
    if new is None:
        return None
    reason, message = new
    troubled = reason in NEEDS_HELP or reason in NOT_ADMITTED - WAITS_IN_QUEUE or after.phase is Phase.FAILED
    if (old is None or old[0] != reason) and (troubled or reason not in _ON_THE_WAY):
        return build_event_manifest(ref, KIND, reason, message, now, warning=troubled or reason == Reason.RETRYING)
    if after.interruptions > before.interruptions and (old is None or old[0] not in _SAYS_SO):
        # The next pod was there before anyone had looked: the condition never said it.
        words = f"Interrupted, {after.interruptions} in all: its pod was preempted, drained or lost. It goes on from its last checkpoint."
        return build_event_manifest(ref, KIND, Reason.INTERRUPTED, words, now, warning=False)
    return None


def build_event_manifest(ref: JobReference, kind: str, reason: str, message: str, now: datetime, *, warning: bool) -> Manifest:
    """Return an Event of a resource of ``kind``.

    Its name follows from the resource, the reason and the second, so that a repeated write meets the first.
    """
    time = format_time(now)
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": f"{ref.name[:200]}.{int(now.timestamp()):x}.{reason.lower()}", "namespace": ref.namespace},
        "involvedObject": {"apiVersion": API_VERSION, "kind": kind, "name": ref.name, "namespace": ref.namespace, "uid": ref.uid},
        "type": "Warning" if warning else "Normal",
        "reason": reason,
        "message": message if len(message) <= MAX_NOTE else message[: MAX_NOTE - 1] + "…",
        "source": {"component": "finetune-operator"},
        "reportingComponent": "finetune.dev/operator",
        "firstTimestamp": time,
        "lastTimestamp": time,
        "count": 1,
    }


def _summary(status: FineTuneJobStatus) -> tuple[str, str] | None:
    condition = next((condition for condition in status.conditions if condition.type == ConditionType.SUCCEEDED), None)
    return (condition.reason, condition.message) if condition is not None else None
