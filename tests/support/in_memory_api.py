"""An API server in memory, behind the operator's own client: what a test needs to stop the world between any two calls.

It has resourceVersions, preconditions, merge patches, the status subresource and the garbage collector. Whether the real one
behaves like this is what the integration tests show.
"""

import copy
import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import reduce
from typing import Any, cast
from urllib.parse import parse_qs, urlsplit

import orjson

from finetune_operator.kube.client import (
    EVENTS,
    FINETUNEJOBS,
    FINETUNESWEEPS,
    JOBS,
    JSON_PATCH,
    LEASES,
    NODES,
    PODS,
    SECRETS,
    TOKEN_REVIEWS,
    ApiError,
    KubeClient,
    Resource,
)
from tests.support.manifests import Manifest, merge

RESOURCES = {
    resource.path(None).rsplit("/", 1)[0] + "/" + resource.plural: resource
    for resource in (FINETUNEJOBS, FINETUNESWEEPS, JOBS, PODS, EVENTS, NODES, SECRETS, LEASES, TOKEN_REVIEWS)
}


@dataclass(frozen=True)
class Call:
    """One request."""

    method: str
    resource: Resource
    namespace: str | None
    name: str | None
    subresource: str | None
    body: Manifest
    selectors: dict[str, str] = field(default_factory=dict)
    operations: tuple[Manifest, ...] = ()
    """Of a JSON patch."""

    @property
    def writes(self) -> bool:
        """True of a call that changes something."""
        return self.method != "GET" and self.resource is not TOKEN_REVIEWS


def _nothing(_: Call) -> None:
    """Let the call be."""


class InMemoryApi(KubeClient):
    """Answers the operator's calls. ``before`` and ``after`` may raise: a refusal, a lost answer, the end of the process."""

    def __init__(self) -> None:
        self.objects: dict[Resource, dict[tuple[str, str], Manifest]] = {resource: {} for resource in RESOURCES.values()}
        self.calls: list[Call] = []
        self.before: Callable[[Call], None] = _nothing
        self.after: Callable[[Call], None] = _nothing
        self.review: Callable[[Manifest], Manifest] = lambda _: {"authenticated": False}
        self.version = 1000
        self._uids = itertools.count(1)

    @property
    def writes(self) -> list[Call]:
        """The calls that wanted to change something."""
        return [call for call in self.calls if call.writes]

    def seed(self, resource: Resource, body: Manifest) -> Manifest:
        """Put an object there, with a new resourceVersion."""
        kept = copy.deepcopy(body)
        self.version += 1
        kept["metadata"]["resourceVersion"] = str(self.version)
        self.objects[resource][kept["metadata"]["namespace"], kept["metadata"]["name"]] = kept
        return kept

    def all(self, resource: Resource) -> list[Manifest]:
        """Return all objects of a kind."""
        return list(self.objects[resource].values())

    async def close(self) -> None:
        """Nothing to close."""

    async def _call(self, method: str, path: str, body: Any = None, *, content_type: str = "") -> Manifest:
        if content_type == JSON_PATCH:
            call = replace(_parse(method, path, {}), operations=tuple(orjson.loads(orjson.dumps(body))))
        else:
            call = _parse(method, path, body or {})
        self.calls.append(call)
        self.before(call)
        answer = copy.deepcopy(self._answer(call))
        self.after(call)
        return answer

    def _answer(self, call: Call) -> Manifest:
        if call.resource is TOKEN_REVIEWS:
            return {"status": self.review(call.body["spec"])}
        known = self.objects[call.resource]
        if call.method == "GET" and call.name is None:
            items = [body for body in known.values() if call.namespace in (None, body["metadata"]["namespace"]) and _selected(body, call)]
            return {"metadata": {"resourceVersion": str(self.version)}, "items": items}
        if call.method == "POST":
            return self._create(call)
        key = (cast("str", call.namespace), cast("str", call.name))
        if key not in known:
            kind = ".".join(filter(None, (call.resource.plural, call.resource.group)))
            raise ApiError(404, "NotFound", f'{kind} "{call.name}" not found', call.method)
        if call.method == "GET":
            return known[key]
        if call.operations:
            call = replace(call, body=_merge_of(call.operations, known[key]))
        wanted = call.body.get("preconditions" if call.method == "DELETE" else "metadata", {})
        for precondition in ("uid", "resourceVersion"):
            if wanted.get(precondition) not in (None, known[key]["metadata"][precondition]):
                raise ApiError(409, "Conflict", f"{precondition} differs", call.method)
        return self._delete(call, key) if call.method == "DELETE" else self._patch(call, key)

    def _create(self, call: Call) -> Manifest:
        body = copy.deepcopy(call.body)
        namespace, name = call.namespace or "", body["metadata"]["name"]
        if (namespace, name) in self.objects[call.resource]:
            raise ApiError(409, "AlreadyExists", f"{name} already exists", call.method)
        body["metadata"] |= {"namespace": namespace, "uid": f"made-{next(self._uids)}", "creationTimestamp": "2026-01-02T03:04:05Z"}
        return self.seed(call.resource, body)

    def _patch(self, call: Call, key: tuple[str, str]) -> Manifest:
        before = self.objects[call.resource][key]
        parts = ("status",) if call.subresource == "status" else tuple(part for part in call.body if part not in ("status", "metadata"))
        after = {**before, **{part: merge(before.get(part, {}), call.body.get(part, {})) for part in parts}}
        given = call.body.get("metadata", {})
        for part in ("labels", "annotations"):
            if part in given:
                after["metadata"] = {**after["metadata"], part: merge(before["metadata"].get(part, {}), given[part])}
        return before if after == before else self.seed(call.resource, after)

    def _delete(self, call: Call, key: tuple[str, str]) -> Manifest:
        there = self.objects[call.resource][key]
        if there["metadata"].get("finalizers"):
            return self.seed(call.resource, merge(there, {"metadata": {"deletionTimestamp": "2026-01-02T03:04:05Z"}}))
        gone = self.objects[call.resource].pop(key)
        for resource in (FINETUNEJOBS, JOBS, PODS):
            for child_key, child in list(self.objects[resource].items()):
                if any(owner["uid"] == gone["metadata"]["uid"] for owner in child["metadata"].get("ownerReferences", ())):
                    del self.objects[resource][child_key]
        return {"kind": "Status", "status": "Success", "details": {"uid": gone["metadata"]["uid"]}}


def _merge_of(operations: Iterable[Manifest], body: Manifest) -> Manifest:
    """Return the merge patch that does to ``body`` what tests and additions of whole parts do."""
    patch: Manifest = {}
    for operation in operations:
        *way, last = operation["path"].strip("/").split("/")
        held = reduce(lambda part, key: part[key], way, body)
        if operation["op"] == "add":
            gone = dict.fromkeys(held.get(last, {}).keys() - operation["value"].keys())
            patch[last] = {**gone, **operation["value"]}
        elif held.get(last) != operation["value"]:
            raise ApiError(422, "Invalid", "the server rejected our request due to an error in our request", "PATCH")
    return patch


def _parse(method: str, path: str, body: Manifest) -> Call:
    address = urlsplit(path)
    parts = iter(address.path.strip("/").split("/"))
    group = "" if next(parts) == "api" else next(parts)
    version = next(parts)
    rest = list(parts)
    namespace = rest[1] if rest[0] == "namespaces" else None
    rest = rest[2:] if namespace is not None else rest
    plural, name, subresource = [*rest, None, None][:3]
    resource = next(each for each in RESOURCES.values() if (each.group, each.version, each.plural) == (group, version, plural))
    query = {key: values[0] for key, values in parse_qs(address.query).items()}
    return Call(method, resource, namespace, name, subresource, copy.deepcopy(dict(body)), query)


def _selected(body: Manifest, call: Call) -> bool:
    labels = body["metadata"].get("labels", {})
    return all(labels.get(key) == value for key, value in _pairs(call.selectors.get("labelSelector", "")))


def _pairs(selector: str) -> Iterator[tuple[str, str]]:
    for part in filter(None, selector.split(",")):
        key, _, value = part.partition("=")
        yield key, value
