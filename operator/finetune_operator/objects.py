"""Reading plain manifests: the few fields that many modules need, with the API's own defaults."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from finetune_api.names import INDEX_LABEL, TRAINER_CONTAINER

Object = Mapping[str, Any]

LOST_SECONDS: Final = 60.0
"""A pod that its kubelet should have killed so long ago, and has not, is lost."""


def uid_of(body: Object) -> str:
    """Return the object's UID."""
    uid: str = body["metadata"]["uid"]
    return uid


def name_of(body: Object) -> str:
    """Return the object's name."""
    name: str = body["metadata"]["name"]
    return name


def namespace_of(body: Object) -> str:
    """Return the object's namespace."""
    namespace: str = body["metadata"]["namespace"]
    return namespace


def version_of(body: Object) -> int:
    """Return the resourceVersion as a number: comparable within one kind since Kubernetes 1.35 (KEP-5504)."""
    return int(body["metadata"].get("resourceVersion") or 0)


def controller_uid_of(body: Object) -> str | None:
    """Return the UID of the object's controlling owner, if it has one."""
    for owner in body["metadata"].get("ownerReferences", ()):
        if owner.get("controller"):
            uid: str = owner["uid"]
            return uid
    return None


def label_of(body: Object, label: str) -> str | None:
    """Return a label's value."""
    value: str | None = body["metadata"].get("labels", {}).get(label)
    return value


def condition_of(body: Object, condition_type: str) -> Object | None:
    """Return the condition of this type from the object's status."""
    conditions: Sequence[Object] = body.get("status", {}).get("conditions") or ()
    return next((condition for condition in conditions if condition["type"] == condition_type), None)


def holds(body: Object, condition_type: str) -> bool:
    """True where the object's condition of this type is True."""
    condition = condition_of(body, condition_type)
    return condition is not None and condition["status"] == "True"


def parse_time(text: str | None) -> datetime | None:
    """Return a Kubernetes time (RFC 3339, with or without fractions), or None."""
    return datetime.fromisoformat(text).astimezone(UTC) if text else None


def trainer_status_of(pod: Object) -> Object:
    """Return the status of the pod's trainer container; empty before the kubelet has written it."""
    statuses: Sequence[Object] = pod.get("status", {}).get("containerStatuses") or ()
    return next((status for status in statuses if status["name"] == TRAINER_CONTAINER), {})


def is_finished(job: Object) -> bool:
    """True of a Job that will start no more pods."""
    return holds(job, "Complete") or holds(job, "Failed")


def is_going(body: Object) -> bool:
    """True of an object that was asked to go, and waits for its end or its finalizers."""
    return "deletionTimestamp" in body["metadata"]


def has_started(pod: Object) -> bool:
    """True of a pod whose trainer runs or ran."""
    state = trainer_status_of(pod).get("state", {})
    return "running" in state or "terminated" in state


def seconds_until_lost(pod: Object, now: datetime) -> float | None:
    """Return in how many seconds a pod that was asked to go counts as lost (0: it does), or None where it was not asked to.

    Its kubelet kills it at the deletion's time at the latest and says so at once. One that is silent for long after that is dead or cut
    off, and the pod would stay as it is until somebody deletes its node.
    """
    going = parse_time(pod["metadata"].get("deletionTimestamp"))
    return max(0.0, LOST_SECONDS - (now - going).total_seconds()) if going is not None else None


def is_lost(pod: Object, now: datetime) -> bool:
    """True of a pod that is gone with its node, whatever its status says."""
    return not is_over(pod) and seconds_until_lost(pod, now) == 0


def index_of(pod: Object) -> int:
    """Return the pod's number in a run of several, from 0; 0 of one alone."""
    index = label_of(pod, INDEX_LABEL) or ""
    return int(index) if index.isdecimal() else 0


def is_over(pod: Object) -> bool:
    """True of a pod whose trainer will not run again."""
    return pod.get("status", {}).get("phase") in ("Succeeded", "Failed")
