"""A node without containers, for a control plane that has none: it plays the kubelet for the pods that are bound to it.

It registers a Node, keeps it ready, and patches the status of its pods as a kubelet does: running, ended with an exit code and a
termination message, asked to go and gone. What a trainer does in between is the test's to say, by a :class:`Script`. Real
containers are the end-to-end tests' part.
"""

import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.client import HTTPException
from types import TracebackType
from typing import Any, Final, Self

from finetune_api.base import format_time
from finetune_api.names import LABEL_JOB_NAME, TRAINER_CONTAINER
from finetune_devcluster import Cluster, DevClusterError

Object = dict[str, Any]
TICK_SECONDS: Final = 0.1
HEARTBEAT_SECONDS: Final = 4.0
UNREACHABLE: Final = (DevClusterError, OSError, HTTPException, ValueError)
"""What a request raises whose API server refuses it, is away, or ends in the middle of its answer."""
_MERGE: Final = "application/strategic-merge-patch+json"
_CAPACITY: Final = {"cpu": "64", "memory": "512Gi", "ephemeral-storage": "1Ti", "pods": "500", "nvidia.com/gpu": "8"}


@dataclass
class Script:
    """What the pods of one FineTuneJob do."""

    ends: Iterator[tuple[int, str]] = field(default_factory=lambda: iter(()))
    """Exit code and termination message of each pod in turn; one without runs until it is told to stop."""
    interrupted: str = ""
    """Termination message of a pod that is asked to stop; its exit code is 75."""
    stop_seconds: float = 0.0
    """What it takes from being asked to stop to the end: a real trainer writes a checkpoint, and everybody sees it do so."""


class FakeNode:
    """A node and its kubelet. As a context manager it comes and goes with the block."""

    def __init__(
        self, cluster: Cluster, name: str = "fake-node", labels: Mapping[str, str] | None = None, capacity: Mapping[str, str] | None = None
    ) -> None:
        self._labels = {"kubernetes.io/hostname": name, **(labels or {})}
        self._capacity = {**_CAPACITY, **(capacity or {})}
        self._client = cluster.client
        self.name = name
        self.scripts: dict[tuple[str, str], Script] = {}
        """By namespace and name of the FineTuneJob."""
        self.dead_to: set[tuple[str, str]] = set()
        """Namespace and name of the FineTuneJobs for whose pods it does nothing any more, as if it were lost."""
        self._asked: dict[str, float] = {}
        """When each pod that is asked to stop was first seen so, by UID."""
        self.faults: list[str] = []
        """What went wrong in the background."""
        self.late: list[str] = []
        """Requests that a busy API server did not answer in time. Each is made again at the next tick or beat."""
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._play, daemon=True), threading.Thread(target=self._beat, daemon=True)]

    def __enter__(self) -> Self:
        """Register the node and start."""
        node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": self.name, "labels": self._labels}}
        self._client.request("POST", "/api/v1/nodes", node)
        self._say_ready()
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Stop, and leave the Node behind: the control plane goes as a whole."""
        self._stop.set()
        for thread in self._threads:
            thread.join(10)

    def end(self, namespace: str, pod: str, exit_code: int, message: str = "", *, disrupted: bool = False) -> None:
        """Let the trainer of a pod leave."""
        body = self._client.request("GET", f"/api/v1/namespaces/{namespace}/pods/{pod}")
        conditions = [{"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler", "message": "preempting"}]
        self._end(body, exit_code, message, conditions if disrupted else [])

    def _say_ready(self) -> None:
        conditions = [
            {"type": "Ready", "status": "True", "reason": "KubeletReady", "lastHeartbeatTime": _now(), "lastTransitionTime": _now()}
        ]
        status = {"status": {"capacity": self._capacity, "allocatable": self._capacity, "conditions": conditions}}
        self._client.request("PATCH", f"/api/v1/nodes/{self.name}/status", status, _MERGE)

    def _is_ready(self) -> bool:
        conditions = self._client.request("GET", f"/api/v1/nodes/{self.name}")["status"]["conditions"]
        return all(each["status"] == "True" for each in conditions if each["type"] == "Ready")

    def _beat(self) -> None:
        path = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"
        spec = {"holderIdentity": self.name, "leaseDurationSeconds": 40}
        while True:
            lease = {"spec": {**spec, "renewTime": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")}, "metadata": {"name": self.name}}
            try:
                self._client.apply(f"{path}/{self.name}", {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", **lease})
                # On a machine that stood still for long the node counts as lost until it says itself that it is there.
                if not self._is_ready():
                    self._say_ready()
            except UNREACHABLE as error:
                self._note(f"lease: {error}", error)
            if self._stop.wait(HEARTBEAT_SECONDS):
                return

    def _play(self) -> None:
        while not self._stop.wait(TICK_SECONDS):
            try:
                pods = self._client.request("GET", f"/api/v1/pods?fieldSelector=spec.nodeName%3D{self.name}")["items"]
                for pod in pods:
                    self._look_at(pod)
            except UNREACHABLE as error:
                if "HTTP 404" not in str(error) and "HTTP 409" not in str(error):
                    self._note(f"pods: {error}", error)

    def _note(self, words: str, error: Exception) -> None:
        (self.late if isinstance(error, OSError | HTTPException) else self.faults).append(words)

    def _look_at(self, pod: Object) -> None:
        phase, going = pod["status"].get("phase"), "deletionTimestamp" in pod["metadata"]
        over = phase in ("Succeeded", "Failed")
        if phase == "Running" and (pod["metadata"]["namespace"], pod["metadata"]["labels"].get(LABEL_JOB_NAME, "")) in self.dead_to:
            return
        if going and not over and phase == "Running":
            script, now = self._script_of(pod), time.monotonic()
            if now - self._asked.setdefault(pod["metadata"]["uid"], now) >= script.stop_seconds:
                self._end(pod, 75, script.interrupted, [])
        elif going:
            self._client.request("DELETE", _path(pod), {"gracePeriodSeconds": 0, "preconditions": {"uid": pod["metadata"]["uid"]}})
        elif phase == "Pending" and pod["spec"]["containers"][0]["name"] == TRAINER_CONTAINER:
            self._start(pod)

    def _script_of(self, pod: Object) -> Script:
        return self.scripts.setdefault((pod["metadata"]["namespace"], pod["metadata"]["labels"].get(LABEL_JOB_NAME, "")), Script())

    def _start(self, pod: Object) -> None:
        self._patch(pod, "Running", {"running": {"startedAt": _now()}}, [{"type": "Ready", "status": "True"}], started=True)
        end = next(self._script_of(pod).ends, None)
        if end is not None:
            pod = self._client.request("GET", _path(pod))
            self._end(pod, *end, [])

    def _end(self, pod: Object, exit_code: int, message: str, conditions: list[Object]) -> None:
        statuses = pod["status"].get("containerStatuses") or [{}]
        started = statuses[0].get("state", {}).get("running", {}).get("startedAt", _now())
        state = {
            "terminated": {
                "exitCode": exit_code,
                "reason": "Completed" if exit_code == 0 else "Error",
                "message": message,
                "startedAt": started,
                "finishedAt": _now(),
            }
        }
        self._patch(pod, "Failed" if exit_code else "Succeeded", state, [{"type": "Ready", "status": "False"}, *conditions], started=False)

    def _patch(self, pod: Object, phase: str, state: Object, conditions: list[Object], *, started: bool) -> None:
        container = pod["spec"]["containers"][0]
        status = {
            "name": container["name"],
            "image": container["image"],
            "imageID": container["image"],
            "ready": started,
            "started": started,
            "restartCount": 0,
            "state": state,
        }
        patch = {
            "metadata": {"uid": pod["metadata"]["uid"]},
            "status": {"phase": phase, "conditions": conditions, "containerStatuses": [status]},
        }
        self._client.request("PATCH", f"{_path(pod)}/status", patch, _MERGE)


def _path(pod: Object) -> str:
    return f"/api/v1/namespaces/{pod['metadata']['namespace']}/pods/{pod['metadata']['name']}"


def _now() -> str:
    return format_time(datetime.now(UTC))
