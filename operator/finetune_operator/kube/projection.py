"""What is kept of an object: the parts that a decision reads. The rest would fill the memory ten thousand times over."""

from collections.abc import Callable, Mapping
from typing import Any, Final

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
    """Return the kept parts of ``body``, in their places."""
    kept = _PROJECTIONS[resource](body)
    kept["metadata"] = _pick(body["metadata"], *_METADATA)
    return kept


def _custom_resource(body: Mapping[str, Any]) -> dict[str, Any]:
    return _pick(body, "spec", "status")


def _job(body: Mapping[str, Any]) -> dict[str, Any]:
    template = {"spec": _pick(body["spec"].get("template", {}).get("spec", {}), "terminationGracePeriodSeconds")}
    return {
        "spec": {**_pick(body["spec"], "suspend", "activeDeadlineSeconds", "backoffLimit"), "template": template},
        **_pick(body, "status"),
    }


def _pod(body: Mapping[str, Any]) -> dict[str, Any]:
    containers = [_pick(container, "name", "image", "resources") for container in body["spec"].get("containers", ())]
    status = _pick(body.get("status", {}), "phase", "reason", "message", "conditions", "containerStatuses")
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
