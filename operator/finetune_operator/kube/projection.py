"""What is kept of an object: the parts that a decision reads. The rest would fill the memory ten thousand times over."""

from collections.abc import Callable, Mapping
from typing import Any, Final

import orjson

from finetune_operator.kube.client import EVENTS, FINETUNEJOBS, FINETUNESWEEPS, JOBS, PODS, Resource

_METADATA: Final = (
    "name",
    "namespace",
    "uid",
    "resourceVersion",
    "generation",
    "creationTimestamp",
    "deletionTimestamp",
    "labels",
    "ownerReferences",
)


def project(resource: Resource, body: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of the kept parts of ``body``, in their places."""
    kept = _PROJECTIONS[resource](body)
    kept["metadata"] = _pick(body["metadata"], *_METADATA)
    # orjson makes each key's text once for all objects; as kopf read them, each object has its own: twice the memory.
    copy: dict[str, Any] = orjson.loads(orjson.dumps(kept))
    return copy


def says_the_same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """True where two projections differ in nothing but their resourceVersion."""
    if any(one.get(part) != other.get(part) for part in ("spec", "status", "involvedObject", "reason", "message")):
        return False
    before, after = one["metadata"], other["metadata"]
    return before.keys() == after.keys() and all(before[key] == after[key] for key in before if key != "resourceVersion")


def _custom_resource(body: Mapping[str, Any]) -> dict[str, Any]:
    return _pick(body, "spec", "status")


def _job(body: Mapping[str, Any]) -> dict[str, Any]:
    template = {"spec": _pick(body["spec"].get("template", {}).get("spec", {}), "terminationGracePeriodSeconds")}
    return {
        "spec": {**_pick(body["spec"], "suspend", "activeDeadlineSeconds", "backoffLimit"), "template": template},
        "status": _pick(body.get("status", {}), "conditions", "succeeded", "failed"),
    }


def _pod(body: Mapping[str, Any]) -> dict[str, Any]:
    containers = [_pick(container, "name", "image", "resources") for container in body["spec"].get("containers", ())]
    status = _pick(body.get("status", {}), "phase", "reason", "message", "conditions", "containerStatuses", "initContainerStatuses")
    return {"spec": {**_pick(body["spec"], "nodeName"), "containers": containers}, "status": status}


def _event(body: Mapping[str, Any]) -> dict[str, Any]:
    return _pick(body, "involvedObject", "reason", "message")


_PROJECTIONS: Final[dict[Resource, Callable[[Mapping[str, Any]], dict[str, Any]]]] = {
    FINETUNEJOBS: _custom_resource,
    FINETUNESWEEPS: _custom_resource,
    JOBS: _job,
    PODS: _pod,
    EVENTS: _event,
}


def _pick(source: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    return {key: source[key] for key in keys if key in source}
