"""Plays Kueue's part on a real API server, for machines that have not built it.

It does to Jobs and Workloads what Kueue documents: one Workload for each Job with a queue, owned by it; admission lifts the Job's
suspension and puts the flavor's labels into its node selector; an eviction suspends it, waits until no pod is active, and then queues it
again. `make kueue` runs the same tests against Kueue itself, which shows that this stand-in plays its part rightly. No webhooks, and GPUs
are all that it counts.
"""

import threading
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.client import HTTPException
from types import TracebackType
from typing import Any, Final, Self

from finetune_api.base import format_time
from finetune_devcluster import Cluster, DevClusterError

Object = dict[str, Any]
GROUP: Final = "kueue.x-k8s.io"
PRIORITIES: Final = {"low": 10, "high": 1000}
TICK_SECONDS: Final = 0.1
_MERGE: Final = "application/merge-patch+json"
_UNREACHABLE: Final = (DevClusterError, OSError, HTTPException, ValueError)
NODE_SELECTOR: Final = {"kubernetes.io/hostname": "fake-node"}


def build_workload_crd(version: str = "v1beta2") -> Object:
    """Return a definition of Workloads that keeps every field, with the status subresource that the real one has."""
    schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    properties = {"spec": {**schema, "properties": {"active": {"type": "boolean", "default": True}}}, "status": schema}
    served = {
        "name": version,
        "served": True,
        "storage": True,
        "subresources": {"status": {}},
        "schema": {"openAPIV3Schema": {"type": "object", "properties": properties}},
    }
    names = {"plural": "workloads", "singular": "workload", "kind": "Workload", "listKind": "WorkloadList", "shortNames": ["wl"]}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": f"workloads.{GROUP}",
            # The group is one of Kubernetes' own domains, which the API server guards.
            "annotations": {"api-approved.kubernetes.io": "unapproved, a stand-in for tests"},
        },
        "spec": {"group": GROUP, "scope": "Namespaced", "names": names, "versions": [served]},
    }


@dataclass
class _Queue:
    gpus: int
    admitted: dict[str, int] = field(default_factory=dict)
    """GPUs of the Workloads that hold quota, by UID."""

    @property
    def free(self) -> int:
        """GPUs that nobody holds."""
        return self.gpus - sum(self.admitted.values())


class KueueStandIn:
    """A queue controller of one thread. As a context manager it comes and goes with the block."""

    is_real: Final = False

    def __init__(self, cluster: Cluster) -> None:
        self._client = cluster.client
        self._queues: dict[tuple[str, str], _Queue] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._play, daemon=True)
        self.faults: list[str] = []
        self.late: list[str] = []
        """Requests that a busy API server did not answer in time. It looks again at the next tick."""

    def __enter__(self) -> Self:
        """Define Workloads and start."""
        self._client.request("POST", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", build_workload_crd())
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Stop."""
        self._stop.set()
        self._thread.join(20)

    def add_queue(self, namespace: str, queue: str, gpus: int) -> None:
        """Make a queue with quota for so many GPUs."""
        self._queues[namespace, queue] = _Queue(gpus)

    def read_log(self) -> str:
        """Return what went wrong."""
        return "\n".join([*self.faults, *self.late])

    def _play(self) -> None:
        while not self._stop.wait(TICK_SECONDS):
            try:
                self._look()
            except _UNREACHABLE as error:
                if not any(code in str(error) for code in ("HTTP 404", "HTTP 409", "HTTP 429", "NamespaceTerminating")):
                    (self.late if isinstance(error, OSError | HTTPException) else self.faults).append(str(error))

    def _look(self) -> None:
        selector = f"{GROUP}%2Fqueue-name"
        jobs = {
            job["metadata"]["uid"]: job for job in self._client.request("GET", f"/apis/batch/v1/jobs?labelSelector={selector}")["items"]
        }
        workloads = {each["metadata"]["ownerReferences"][0]["uid"]: each for each in self._client.request("GET", _path(None))["items"]}
        for uid, job in jobs.items():
            if uid not in workloads:
                self._create(job)
        for queue in self._queues.values():
            present = {each["metadata"]["uid"] for uid, each in workloads.items() if uid in jobs}
            queue.admitted = {uid: gpus for uid, gpus in queue.admitted.items() if uid in present}
        waiting = sorted(workloads.items(), key=lambda pair: (-pair[1]["spec"]["priority"], pair[1]["metadata"]["creationTimestamp"]))
        for uid, workload in waiting:
            job = jobs.get(uid)
            if job is not None:
                self._reconcile(job, workload, {each["metadata"]["uid"]: (jobs.get(owner), each) for owner, each in workloads.items()})

    def _reconcile(self, job: Object, workload: Object, others: dict[str, tuple[Object | None, Object]]) -> None:
        uid = workload["metadata"]["uid"]
        wanted = job["metadata"]["labels"][f"{GROUP}/queue-name"]
        if workload["spec"]["queueName"] != wanted and uid not in self._admitted_anywhere() and not _is_true(workload, "Evicted"):
            self._move(workload, wanted)
        queue = self._queues.get((job["metadata"]["namespace"], workload["spec"]["queueName"]))
        if any(each["type"] in ("Complete", "Failed") and each["status"] == "True" for each in job["status"].get("conditions", ())):
            if queue is not None:
                queue.admitted.pop(uid, None)
            return
        if queue is None:
            name = workload["spec"]["queueName"]
            self._set(workload, ("QuotaReserved", "False", "Inadmissible", f"LocalQueue {name} doesn't exist"))
            return
        if _is_true(workload, "Evicted") and uid in queue.admitted:
            self._stop_job(job)
            if not job["status"].get("active"):
                queue.admitted.pop(uid, None)
                self._set(
                    workload, ("QuotaReserved", "False", "Pending", "evicted"), ("Admitted", "False", "NoReservation", ""), admission=None
                )
            return
        if not workload["spec"].get("active", True):
            if uid in queue.admitted:
                self._set(workload, ("Evicted", "True", "Deactivated", "The workload is deactivated"))
            return
        if uid in queue.admitted:
            if job["spec"].get("suspend"):
                self._start_job(job)
        elif _count_gpus(workload) <= queue.free:
            self._admit(workload, queue)
        else:
            self._wait(workload, queue, others)

    def _admitted_anywhere(self) -> set[str]:
        return {uid for queue in self._queues.values() for uid in queue.admitted}

    def _move(self, workload: Object, queue: str) -> None:
        """Follow the Job's label, which may change while it is suspended: as Kueue does it, not after an eviction."""
        metadata = workload["metadata"]
        patch = {"metadata": {"uid": metadata["uid"]}, "spec": {"queueName": queue}}
        workload |= self._client.request("PATCH", f"{_path(metadata['namespace'])}/{metadata['name']}", patch, _MERGE)

    def _admit(self, workload: Object, queue: _Queue) -> None:
        self._set(
            workload,
            ("QuotaReserved", "True", "QuotaReserved", "Quota reserved in ClusterQueue stand-in"),
            ("Admitted", "True", "Admitted", "The workload is admitted"),
            ("Evicted", "False", "QuotaReserved", ""),
            ("Preempted", "False", "QuotaReserved", ""),
            admission={"clusterQueue": "stand-in", "podSetAssignments": [{"name": "main", "flavors": {"nvidia.com/gpu": "fake"}}]},
        )
        queue.admitted[workload["metadata"]["uid"]] = _count_gpus(workload)  # once it is told: a request that is late is made again

    def _wait(self, workload: Object, queue: _Queue, others: dict[str, tuple[Object | None, Object]]) -> None:
        self._set(workload, ("QuotaReserved", "False", "Pending", "couldn't assign flavors: insufficient unused quota for nvidia.com/gpu"))
        coming = queue.free
        for uid in sorted(queue.admitted, key=lambda uid: not _is_true(others[uid][1], "Evicted")):
            if coming >= _count_gpus(workload):
                return
            _, victim = others[uid]
            coming += queue.admitted[uid]
            if victim["spec"]["priority"] < workload["spec"]["priority"] and not _is_true(victim, "Evicted"):
                words = (
                    f"Preempted to accommodate a workload (UID: {workload['metadata']['uid']}) due to prioritization in the ClusterQueue"
                )
                self._set(victim, ("Evicted", "True", "Preempted", words), ("Preempted", "True", "InClusterQueue", words))

    def _create(self, job: Object) -> None:
        metadata = job["metadata"]
        owner = {"apiVersion": "batch/v1", "kind": "Job", "name": metadata["name"], "uid": metadata["uid"], "controller": True}
        workload = {
            "apiVersion": f"{GROUP}/v1beta2",
            "kind": "Workload",
            "metadata": {"name": f"job-{metadata['name']}", "namespace": metadata["namespace"], "ownerReferences": [owner]},
            "spec": {
                "queueName": metadata["labels"][f"{GROUP}/queue-name"],
                "priority": PRIORITIES.get(metadata["labels"].get(f"{GROUP}/priority-class", ""), 0),
                "podSets": [{"name": "main", "count": job["spec"]["parallelism"], "template": job["spec"]["template"]}],
            },
        }
        self._client.request("POST", _path(metadata["namespace"]), workload)

    def _start_job(self, job: Object) -> None:
        self._patch_job(job, {"suspend": False, "template": {"spec": {"nodeSelector": NODE_SELECTOR}}})

    def _stop_job(self, job: Object) -> None:
        if not job["spec"].get("suspend"):
            self._patch_job(job, {"suspend": True})

    def _patch_job(self, job: Object, spec: Object) -> None:
        metadata = job["metadata"]
        path = f"/apis/batch/v1/namespaces/{metadata['namespace']}/jobs/{metadata['name']}"
        self._client.request("PATCH", path, {"metadata": {"uid": metadata["uid"]}, "spec": spec}, _MERGE)

    def _set(self, workload: Object, *conditions: tuple[str, str, str, str], **status: Any) -> None:
        known = {each["type"]: each for each in workload.get("status", {}).get("conditions", ())}
        before = dict(known)
        for kind, truth, reason, message in conditions:
            new = {"type": kind, "status": truth, "reason": reason, "message": message}
            if kind not in known or any(known[kind][key] != value for key, value in new.items()):
                known[kind] = {**new, "lastTransitionTime": format_time(datetime.now(UTC))}
        if known == before and not status:
            return
        metadata = workload["metadata"]
        patch = {"metadata": {"uid": metadata["uid"]}, "status": {"conditions": list(known.values()), **status}}
        path = f"{_path(metadata['namespace'])}/{metadata['name']}/status"
        workload |= self._client.request("PATCH", path, patch, _MERGE)


def _count_gpus(workload: Object) -> int:
    """Return the GPUs of all pods of a Workload, which gets quota for all of them or for none."""
    (pods,) = workload["spec"]["podSets"]
    (container,) = pods["template"]["spec"]["containers"]
    return int(pods["count"]) * int(container["resources"]["requests"].get("nvidia.com/gpu", 0))


def _is_true(workload: Object, kind: str) -> bool:
    return any(each["type"] == kind and each["status"] == "True" for each in workload.get("status", {}).get("conditions", ()))


def _path(namespace: str | None) -> str:
    return f"/apis/{GROUP}/v1beta2" + (f"/namespaces/{namespace}" if namespace else "") + "/workloads"
