"""The newest Workload of each Job, as far as a decision reads it."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from finetune_api.names import ANNOTATION_DEACTIVATED
from finetune_operator.kube.client import Resource
from finetune_operator.objects import Object, controller_uid_of, namespace_of, uid_of, version_of

GROUP: Final = "kueue.x-k8s.io"
VERSIONS: Final = ("v1beta2", "v1beta1", "v1")
"""Versions of the Workload that are read alike here, the best known first. Kueue 0.20 serves v1beta1 no more."""
PLURAL: Final = "workloads"

_METADATA: Final = ("name", "namespace", "uid", "resourceVersion", "creationTimestamp", "deletionTimestamp", "ownerReferences")


class WorkloadBook:
    """Workloads by the UID of the Job that owns them."""

    def __init__(self) -> None:
        self.resource: Resource | None = None
        """The kind as the API server has it; None where Kueue is not installed, or not seen yet."""
        self._of_job: dict[str, Object] = {}
        self._positions: dict[str, int] = {}

    def put(self, body: Mapping[str, Any]) -> str | None:
        """Keep ``body`` if it is newer than what is known; return the UID of its Job, or None if nothing changed."""
        job = _job_uid_of(body)
        if job is None:
            return None
        known = self._of_job.get(job)
        # A Job whose Workload was deleted gets another: the one that came last counts.
        if known is not None and (_age_of(known), version_of(known)) >= (_age_of(body), version_of(body)):
            return None
        self._of_job[job] = _project(body)
        return job

    def remove(self, body: Mapping[str, Any]) -> str | None:
        """Forget ``body``; return the UID of its Job, or None if it was not known."""
        job = _job_uid_of(body)
        known = self._of_job.get(job) if job is not None else None
        if job is None or known is None or uid_of(known) != uid_of(body):
            return None
        del self._of_job[job]
        return job

    def replace(self, bodies: Iterable[Mapping[str, Any]], version: int, namespace: str | None = None) -> Iterator[str]:
        """Take over a complete list (of ``namespace``, or of all) as of ``version``; yield the UIDs of the Jobs concerned."""
        listed: set[str] = set()
        for body in bodies:
            listed.add(uid_of(body))
            if job := self.put(body):
                yield job
        gone = [
            body
            for body in self._of_job.values()
            if uid_of(body) not in listed and version_of(body) <= version and namespace in (None, namespace_of(body))
        ]
        for body in gone:
            if job := self.remove(body):
                yield job

    def clear(self) -> list[str]:
        """Forget everything; return the UIDs of the Jobs concerned."""
        jobs = list(self._of_job)
        self._of_job.clear()
        return jobs

    def of_job(self, job_uid: str) -> Object | None:
        """Return the Workload of the Job with this UID."""
        return self._of_job.get(job_uid)

    def position_of(self, job_uid: str) -> int | None:
        """Return the place in its queue of the Workload of the Job with this UID, as last looked up."""
        return self._positions.get(job_uid)

    def place(self, positions: Mapping[str, int]) -> list[str]:
        """Take over the places of all Workloads that wait, by the UIDs of their Jobs; return those whose place has changed."""
        changed = [job for job in {*positions, *self._positions} if positions.get(job) != self._positions.get(job)]
        self._positions = dict(positions)
        return changed

    def all(self) -> list[Object]:
        """Return every Workload."""
        return list(self._of_job.values())


def _job_uid_of(body: Mapping[str, Any]) -> str | None:
    is_job = any(owner.get("kind") == "Job" and owner.get("controller") for owner in body["metadata"].get("ownerReferences", ()))
    return controller_uid_of(body) if is_job else None


def _age_of(body: Mapping[str, Any]) -> str:
    created: str = body["metadata"].get("creationTimestamp") or ""
    return created


def _project(body: Mapping[str, Any]) -> Object:
    metadata = {key: body["metadata"][key] for key in _METADATA if key in body["metadata"]}
    mark = (body["metadata"].get("annotations") or {}).get(ANNOTATION_DEACTIVATED)
    if mark is not None:
        metadata["annotations"] = {ANNOTATION_DEACTIVATED: mark}
    spec, status = body.get("spec") or {}, body.get("status") or {}
    return {
        "metadata": metadata,
        "spec": {key: spec[key] for key in ("queueName", "active", "priority") if key in spec},
        "status": {
            **{key: status[key] for key in ("conditions", "requeueState") if key in status},
            **({"admission": {"clusterQueue": status["admission"].get("clusterQueue", "")}} if status.get("admission") else {}),
            "admissionChecks": [
                {key: check.get(key, "") for key in ("name", "state", "message")} for check in status.get("admissionChecks") or ()
            ],
        },
    }
