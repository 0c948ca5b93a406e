"""A FineTuneJob on a real API server, as a test drives it."""

import json
import time
from collections.abc import Callable
from typing import Any, Final, TypeVar

from finetune_api.names import LABEL_JOB_UID
from finetune_devcluster import Cluster
from finetune_devcluster.api_client import ApiError
from tests.support.fake_node import FakeNode, Script
from tests.support.manifests import Manifest, build_minimal_manifest, merge

Object = dict[str, Any]
PATIENCE: Final = 30.0
"""Seconds that a test waits for what should take one: the machine may be busy."""
_MERGE: Final = "application/merge-patch+json"


T = TypeVar("T")


def wait_until(look: Callable[[], T | None], what: str, seconds: float = PATIENCE, explain: Callable[[], object] = lambda: "") -> T:
    """Look until there is something, and return it."""
    deadline = time.monotonic() + seconds
    while True:
        found = look()
        if found:
            return found
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s: {what}\n{explain()}"
        time.sleep(0.05)


class LiveRun:
    """One FineTuneJob in a namespace."""

    def __init__(self, cluster: Cluster, node: FakeNode, namespace: str, name: str) -> None:
        self.cluster, self.client = cluster, cluster.client
        self.node = node
        self.namespace, self.name = namespace, name
        self.path = f"/apis/finetune.dev/v1alpha1/namespaces/{namespace}/finetunejobs/{name}"

    def apply(self, spec: Manifest | None = None, script: Script | None = None) -> Object:
        """Create it; ``spec`` is a merge patch on the minimal one, and ``script`` is what its pods do."""
        if script is not None:
            self.node.scripts[self.namespace, self.name] = script
        manifest = merge(build_minimal_manifest(self.name, self.namespace), {"spec": spec or {}})
        created: Object = self.client.request("POST", self.path.rpartition("/")[0], manifest)
        return created

    def patch(self, spec: Manifest) -> None:
        """Change its spec."""
        self.client.request("PATCH", self.path, {"spec": spec}, _MERGE)

    def delete(self) -> None:
        """Delete it."""
        self.client.request("DELETE", self.path)

    def get(self) -> Object:
        """Return it."""
        body: Object = self.client.request("GET", self.path)
        return body

    @property
    def status(self) -> Object:
        """Its status."""
        status: Object = self.get().get("status", {})
        return status

    def condition(self, kind: str = "Succeeded") -> Object:
        """Return one of its conditions; empty before there is one."""
        return next((each for each in self.status.get("conditions", []) if each["type"] == kind), {})

    def events(self) -> list[Object]:
        """Return the Events about it: what it once said, too."""
        path = f"/api/v1/namespaces/{self.namespace}/events?fieldSelector=involvedObject.name%3D{self.name}"
        items: list[Object] = self.client.request("GET", path)["items"]
        return items

    def wait_event(self, reason: str, seconds: float = PATIENCE) -> Object:
        """Wait until there is an Event with this reason about it, and return it. Events are written after the status that they tell of."""
        return wait_until(
            lambda: next((each for each in self.events() if each["reason"] == reason), None),
            f"{self.name} has an Event {reason}",
            seconds,
            self.explain,
        )

    def jobs(self) -> list[Object]:
        """Return its Jobs, by label."""
        return self._children("apis/batch/v1", "jobs")

    def pods(self) -> list[Object]:
        """Return its pods, oldest first."""
        return sorted(self._children("api/v1", "pods"), key=lambda pod: str(pod["metadata"]["creationTimestamp"]))

    def _children(self, api: str, plural: str) -> list[Object]:
        try:
            uid = self.get()["metadata"]["uid"]
        except ApiError:
            return []
        path = f"/{api}/namespaces/{self.namespace}/{plural}?labelSelector={LABEL_JOB_UID}%3D{uid}"
        items: list[Object] = self.client.request("GET", path)["items"]
        return items

    def wait_phase(self, phase: str, seconds: float = PATIENCE) -> Object:
        """Wait until it is in ``phase``, and return its status."""
        wait_until(lambda: self.status.get("phase") == phase, f"{self.name} is {phase}", seconds, self.explain)
        return self.status

    def wait_reason(self, reason: str, kind: str = "Succeeded", seconds: float = PATIENCE) -> Object:
        """Wait until the condition ``kind`` has this reason, and return it."""
        return wait_until(
            lambda: found if (found := self.condition(kind)).get("reason") == reason else None,
            f"{self.name} says {reason}",
            seconds,
            self.explain,
        )

    def wait_job(self) -> Object:
        """Wait until it has a Job, and return it."""
        return wait_until(self.jobs, f"{self.name} has a Job", explain=self.explain)[0]

    def wait_pod(self, phase: str = "Running", seconds: float = PATIENCE) -> Object:
        """Wait until a pod of it is in ``phase``, and return it: one that is being deleted only where there is no other."""

        def look() -> Object | None:
            found = [pod for pod in self.pods() if pod["status"].get("phase") == phase]
            return min(found, key=lambda pod: "deletionTimestamp" in pod["metadata"], default=None)

        return wait_until(look, f"{self.name} has a pod that is {phase}", seconds, self.explain)

    def end_pod(self, exit_code: int, message: str = "", *, disrupted: bool = False) -> None:
        """Let the trainer of its running pod leave."""
        pod = self.wait_pod()
        self.node.end(self.namespace, pod["metadata"]["name"], exit_code, message, disrupted=disrupted)

    def explain(self) -> str:
        """Return what there is, for a test that fails."""
        try:
            parts = [self.status, *(job["status"] for job in self.jobs()), *(pod["status"] for pod in self.pods())]
        except ApiError as error:
            return str(error)
        return "\n".join(json.dumps(part) for part in parts) + f"\n{self.node.faults} {self.node.late}"


NewRun = Callable[..., LiveRun]
"""Makes a run by its name."""
