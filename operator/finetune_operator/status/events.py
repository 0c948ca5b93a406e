"""Kubernetes Events for what a person would want to read in ``kubectl describe``."""

from datetime import datetime
from typing import Any, Literal

from finetune_api.base import format_time
from finetune_api.names import API_VERSION, KIND
from finetune_api.reasons import Reason
from finetune_api.report import JobReference
from finetune_api.status import ConditionType, FineTuneJobStatus, Phase
from finetune_operator.status.diagnosis import NEEDS_HELP, NOT_ADMITTED

Manifest = dict[str, Any]
MAX_NOTE = 1024
"""Most characters of an Event's message."""


def build_event(ref: JobReference, before: FineTuneJobStatus, after: FineTuneJobStatus, now: datetime) -> Manifest | None:
    """Return the Event for the step from ``before`` to ``after``, or None for a step not worth one.

    Its name follows from the run, the reason and the second, so that a repeated write meets the first.
    """
    old, new = _summary(before), _summary(after)
    if new is None or (old is not None and old[0] == new[0]):
        return None
    reason, message = new
    troubled = reason in NEEDS_HELP or reason in NOT_ADMITTED - {Reason.QUEUED} or after.phase is Phase.FAILED
    kind: Literal["Normal", "Warning"] = "Warning" if troubled or reason == Reason.RETRYING else "Normal"
    if not troubled and reason in (Reason.WAITING_FOR_POD, Reason.STARTING):
        return None
    time = format_time(now)
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": f"{ref.name[:200]}.{int(now.timestamp()):x}.{reason.lower()}", "namespace": ref.namespace},
        "involvedObject": {"apiVersion": API_VERSION, "kind": KIND, "name": ref.name, "namespace": ref.namespace, "uid": ref.uid},
        "type": kind,
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
