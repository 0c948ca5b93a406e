"""What is kept of an object: the parts that a decision reads. The rest would fill the memory ten thousand times over."""

from collections.abc import Callable, Mapping
from functools import lru_cache
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

PARTS_SHARED: Final = 1_000
"""Parts of specifications that are remembered, so that objects with the same part share it: most of a run's are the API's defaults."""


class Kept(dict[str, Any]):
    """A projection. What is one already is not copied again."""

    __slots__ = ()


def project(resource: Resource, body: Mapping[str, Any]) -> Kept:
    """Return a copy of the kept parts of ``body``, in their places. Not to be changed: other objects may share parts of it."""
    if isinstance(body, Kept):
        return body
    kept = _PROJECTIONS[resource](body)
    kept["metadata"] = _pick(body["metadata"], *_METADATA)
    spec = kept.pop("spec", None)
    # orjson makes each key's text once for all objects; as kopf read them, each object has its own: twice the memory.
    copy = Kept(orjson.loads(orjson.dumps(kept)))
    if isinstance(spec, Mapping):
        copy["spec"] = {name: _load_part(orjson.dumps(part)) for name, part in spec.items()}
    elif spec is not None:
        copy["spec"] = spec
    return copy


_load_part = lru_cache(PARTS_SHARED)(orjson.loads)


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
