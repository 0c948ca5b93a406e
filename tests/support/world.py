"""FineTuneJobs, Jobs and pods as the API server would show them, and observations made of them."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from finetune_api.artifact import Artifact
from finetune_api.base import format_time
from finetune_api.names import API_VERSION, KIND, LABEL_ATTEMPT, LABEL_JOB_UID, LABEL_MANAGED_BY, MANAGED_BY, TRAINER_CONTAINER
from finetune_api.progress import Metrics, Progress
from finetune_api.reasons import Reason
from finetune_api.report import JobReference
from finetune_api.resource import parse_spec
from finetune_api.spec import FineTuneJobSpec
from finetune_api.summary import TrainerSummary, encode_summary
from finetune_operator.desired.job import build_job
from finetune_operator.kube.client import EVENTS, FINETUNEJOBS, JOBS, PODS, Resource
from finetune_operator.kube.store import Store
from finetune_operator.kueue.workloads import WorkloadBook
from finetune_operator.observation import Observation, Refusal
from finetune_operator.observe import Observer
from finetune_operator.settings import TrainerSettings
from tests.support.manifests import Manifest, build_minimal_manifest, merge

NOW: Final = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
NAMESPACE: Final = "team-a"
NAME: Final = "support-bot"
UID: Final = "5f0c2f1e-6a2b-4f0e-9d57-0123456789ab"
JOB_UID: Final = "job-uid-0"
TRAINER: Final = TrainerSettings(image="registry.example.com/trainer:1")
REF: Final = JobReference(namespace=NAMESPACE, name=NAME, uid=UID)


def at(seconds: float) -> datetime:
    """Return the time ``seconds`` after :data:`NOW`."""
    return NOW + timedelta(seconds=seconds)


def build_spec(patch: Manifest | None = None) -> FineTuneJobSpec:
    """Return the minimal specification with the merge patch ``patch`` applied."""
    return parse_spec(merge(build_minimal_manifest()["spec"], patch or {}))


def build_finetunejob(
    spec: Manifest | None = None, status: Manifest | None = None, *, uid: str = UID, version: int = 1, generation: int = 1, **metadata: Any
) -> Manifest:
    """Return a FineTuneJob; ``spec`` is a merge patch on the minimal one."""
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": {
            "name": NAME,
            "namespace": NAMESPACE,
            "uid": uid,
            "resourceVersion": str(version),
            "generation": generation,
            "creationTimestamp": format_time(NOW),
            **metadata,
        },
        "spec": merge(build_minimal_manifest()["spec"], spec or {}),
        **({"status": status} if status is not None else {}),
    }


def build_stored_job(
    attempt: int = 0,
    *,
    spec: FineTuneJobSpec | None = None,
    conditions: Sequence[Manifest] = (),
    uid: str = JOB_UID,
    version: int = 10,
    failed: int = 0,
    **spec_patch: Any,
) -> Manifest:
    """Return the Job of ``attempt`` as the API server stores it; ``spec_patch`` overrides fields of its spec."""
    job = build_job(spec or build_spec(), REF, attempt, trainer=TRAINER, reporting=None)
    job["metadata"] |= {"uid": uid, "resourceVersion": str(version), "creationTimestamp": format_time(NOW)}
    job["spec"] |= spec_patch
    job["status"] = {"conditions": list(conditions), **({"failed": failed} if failed else {})}
    return job


def condition(kind: str, reason: str = "", message: str = "", status: str = "True") -> Manifest:
    """Return a condition as Jobs and pods have it."""
    return {"type": kind, "status": status, "reason": reason, "message": message}


COMPLETE: Final = condition("Complete", "CompletionsReached")
FAILED: Final = condition("Failed", "PodFailurePolicy")


def build_pod(
    name: str = "support-bot-pod",
    *,
    phase: str = "Pending",
    state: Manifest | None = None,
    node: str | None = "node-1",
    conditions: Sequence[Manifest] = (),
    controller: str | None = JOB_UID,
    job_uid: str = UID,
    created: datetime = NOW,
    version: int = 20,
    namespace: str = NAMESPACE,
    deleting: bool = False,
    **status: Any,
) -> Manifest:
    """Return a trainer's pod; ``state`` is that of its container."""
    container_statuses = [{"name": TRAINER_CONTAINER, "state": state}] if state is not None else []
    owners = [{"apiVersion": "batch/v1", "kind": "Job", "name": "job", "uid": controller, "controller": True}] if controller else []
    return {
        "metadata": {
            "name": name,
            "namespace": namespace,
            "uid": f"uid-{name}",
            "resourceVersion": str(version),
            "creationTimestamp": format_time(created),
            "labels": {LABEL_MANAGED_BY: MANAGED_BY, LABEL_JOB_UID: job_uid, LABEL_ATTEMPT: "0"},
            "ownerReferences": owners,
            **({"deletionTimestamp": format_time(created)} if deleting else {}),
        },
        "spec": {
            **({"nodeName": node} if node else {}),
            "containers": [
                {
                    "name": TRAINER_CONTAINER,
                    "image": TRAINER.image,
                    "resources": {
                        "requests": {"cpu": "2", "memory": "16Gi", "nvidia.com/gpu": "1"},
                        "limits": {"memory": "16Gi", "nvidia.com/gpu": "1"},
                    },
                }
            ],
        },
        "status": {"phase": phase, "conditions": list(conditions), "containerStatuses": container_statuses, **status},
    }


def running(since: datetime = NOW) -> Manifest:
    """Return the state of a container that runs."""
    return {"running": {"startedAt": format_time(since)}}


def waiting(reason: str, message: str = "") -> Manifest:
    """Return the state of a container that waits."""
    return {"waiting": {"reason": reason, "message": message}}


def terminated(
    exit_code: int, message: str = "", *, reason: str = "", since: datetime | None = NOW, until: datetime | None = NOW
) -> Manifest:
    """Return the state of a container that has ended."""
    return {
        "terminated": {
            "exitCode": exit_code,
            "reason": reason or ("Completed" if exit_code == 0 else "Error"),
            "message": message,
            "startedAt": format_time(since) if since else None,
            "finishedAt": format_time(until) if until else None,
        }
    }


def build_ended_pod(exit_code: int, message: str = "", *, name: str = "support-bot-pod", reason: str = "", **pod: Any) -> Manifest:
    """Return a pod whose trainer left with ``exit_code`` and the termination message ``message``."""
    phase = "Succeeded" if exit_code == 0 else "Failed"
    return build_pod(name, phase=phase, state=terminated(exit_code, message, reason=reason), **pod)


def build_artifact() -> Artifact:
    """Return an artifact."""
    return Artifact(
        name="adapter",
        format="peft",
        uri="s3://team-a/adapters/support-bot/adapter",
        digest="sha256:" + "0123456789abcdef" * 4,
        size_bytes=83_886_080,
        base_model="hf://example/model",
        created_time=NOW,
    )


def build_summary(outcome: str = "completed", reason: Reason = Reason.COMPLETED, **fields: Any) -> str:
    """Return a termination message; one of a completed run has an artifact, unless said otherwise."""
    given: dict[str, Any] = {
        "progress": Progress(percentage=100, step=10, total_steps=10, epoch=1.0, last_updated_time=NOW),
        "metrics": Metrics(loss=1.25),
        "artifacts": [build_artifact()] if outcome == "completed" else [],
        **fields,
    }
    return encode_summary(TrainerSummary.model_validate({"outcome": outcome, "reason": reason, **given}))


def observe(
    finetunejob: Manifest | None = None,
    *,
    jobs: Sequence[Manifest] = (),
    pods: Sequence[Manifest] = (),
    warning: str | None = None,
    refusal: Refusal | None = None,
    simulated_gpus: bool = False,
    workload: Manifest | None = None,
    kueue: bool = True,
) -> Observation:
    """Return the observation of these objects, made by the real store and observer."""
    store = Store()
    body = finetunejob if finetunejob is not None else build_finetunejob()
    store.put(FINETUNEJOBS, body)
    for job in jobs:
        store.put(JOBS, job)
    for pod in pods:
        store.put(PODS, pod)
    if warning is not None:
        store.put(EVENTS, build_failed_create(warning))
    book = WorkloadBook()
    book.resource = Resource("kueue.x-k8s.io", "v1beta2", "workloads") if kueue else None
    if workload is not None:
        book.put(workload)
    observation = Observer(store, simulated_gpus=simulated_gpus, workloads=book).observe(body["metadata"]["uid"], refusal)
    assert observation is not None
    return observation


def build_workload(
    *conditions: Manifest, active: bool = True, queue: str = "team-a", job_uid: str = JOB_UID, version: int = 40, **status: Any
) -> Manifest:
    """Return Kueue's Workload of a Job."""
    owner = {"apiVersion": "batch/v1", "kind": "Job", "name": "job", "uid": job_uid, "controller": True}
    return {
        "metadata": {
            "name": "job-support-bot-12345",
            "namespace": NAMESPACE,
            "uid": f"workload-of-{job_uid}",
            "resourceVersion": str(version),
            "creationTimestamp": format_time(NOW),
            "ownerReferences": [owner],
        },
        "spec": {"queueName": queue, "active": active, "priority": 0, "podSets": [{"name": "main"}]},
        "status": {"conditions": list(conditions), **status},
    }


def build_failed_create(message: str, *, name: str = "event", job_uid: str = JOB_UID, version: int = 30) -> Manifest:
    """Return the Event by which the Job controller says that it could not create a pod."""
    return {
        "metadata": {"name": name, "namespace": NAMESPACE, "uid": f"uid-{name}", "resourceVersion": str(version)},
        "involvedObject": {"kind": "Job", "uid": job_uid, "namespace": NAMESPACE},
        "reason": "FailedCreate",
        "message": message,
    }
