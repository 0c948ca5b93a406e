"""The Job of one attempt."""

from typing import Any

from finetune_api.exit_codes import ExitCode, codes_with_retry
from finetune_api.names import (
    API_VERSION,
    KIND,
    LABEL_ATTEMPT,
    LABEL_JOB_NAME,
    LABEL_JOB_UID,
    LABEL_MANAGED_BY,
    LABEL_QUEUE_NAME,
    LABEL_WORKLOAD_PRIORITY,
    MANAGED_BY,
    MODEL_CACHE_ROOT,
    TRAINER_CONTAINER,
)
from finetune_api.report import JobReference
from finetune_api.spec import FineTuneJobSpec
from finetune_api.trainer_config import ReportingConfig
from finetune_operator.desired.config import build_trainer_config
from finetune_operator.desired.gang import add_gang
from finetune_operator.desired.model_cache import add_model_cache, uses_model_cache
from finetune_operator.desired.names import build_job_name, build_service_name
from finetune_operator.desired.pod import build_pod_spec
from finetune_operator.settings import TrainerSettings

Manifest = dict[str, Any]


def build_job(
    spec: FineTuneJobSpec,
    owner: JobReference,
    attempt: int,
    *,
    trainer: TrainerSettings,
    reporting: ReportingConfig | None,
    failures: int = 0,
    grace_seconds: int | None = None,
) -> Manifest:
    """Return the Job of ``attempt``, owned by the FineTuneJob ``owner``.

    :param failures: crashes of former attempts, which have used up a part of ``backoffLimit``.
    :param grace_seconds: time between SIGTERM and SIGKILL; the operator's setting by default.
    """
    config = build_trainer_config(spec, owner, attempt, simulated_gpus=trainer.simulated_gpus, reporting=reporting)
    cached = bool(trainer.model_cache) and uses_model_cache(spec)
    if cached:
        config = config.model_copy(update={"model_cache": MODEL_CACHE_ROOT})
    pod = build_pod_spec(
        spec,
        config,
        image=trainer.image,
        image_pull_policy=trainer.image_pull_policy,
        grace_seconds=grace_seconds or trainer.grace_seconds,
        tracing=trainer.tracing,
    )
    labels = {
        **spec.pod.labels,
        LABEL_MANAGED_BY: MANAGED_BY,
        LABEL_JOB_NAME: owner.name[:63].rstrip("-._"),
        LABEL_JOB_UID: owner.uid,
        LABEL_ATTEMPT: str(attempt),
    }
    queue = queue_of(spec, trainer.default_queue)
    job_labels = dict(labels)
    if queue is not None:
        job_labels[LABEL_QUEUE_NAME] = queue
    if spec.scheduling.workload_priority_class_name is not None:
        job_labels[LABEL_WORKLOAD_PRIORITY] = spec.scheduling.workload_priority_class_name
    nodes = spec.resources.nodes
    job_spec: Manifest = {
        "backoffLimit": max(0, spec.backoff_limit - failures),
        "completions": nodes,
        "parallelism": nodes,
        # A queue admits the Job by lifting its suspension.
        "suspend": queue is not None,
        # The next trainer must not start while the last one may still write.
        "podReplacementPolicy": "Failed",
        "podFailurePolicy": {"rules": build_failure_rules(alone=config.group is None)},
        "template": {
            "metadata": {"labels": labels},
            "spec": add_model_cache(pod, trainer.model_cache) if cached else pod,
        },
    }
    if nodes > 1:
        job_spec["completionMode"] = "Indexed"
        job_spec["template"]["spec"]["subdomain"] = build_service_name(owner.uid)
    if spec.active_deadline_seconds is not None:
        job_spec["activeDeadlineSeconds"] = spec.active_deadline_seconds
    job = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": build_job_name(owner.name, owner.uid, attempt, nodes=nodes),
            "namespace": owner.namespace,
            "labels": job_labels,
            "ownerReferences": [
                # Not blockOwnerDeletion: it would take the right to set finalizers, and deletion waits for nothing here.
                {"apiVersion": API_VERSION, "kind": KIND, "name": owner.name, "uid": owner.uid, "controller": True}
            ],
        },
        "spec": job_spec,
    }
    scheduler = trainer.gang_schedulers.get(spec.scheduling.gang or "")
    return add_gang(job, spec, owner, scheduler) if scheduler else job


def queue_of(spec: FineTuneJobSpec | None, default: str) -> str | None:
    """Return the LocalQueue that a run asks for; None leaves it to the cluster."""
    return (spec.scheduling.queue_name if spec is not None else None) or default or None


def build_failure_rules(*, alone: bool = True) -> list[Manifest]:
    """Return the pod failure policy that follows from the trainer's exit codes. The first rule that fits decides.

    :param alone: the trainer is one process: there is no other that it could lose.
    """
    free = [code for code in codes_with_retry("free") if not (alone and code == ExitCode.PEER_LOST)]

    def on_exit(action: str, codes: list[int]) -> Manifest:
        return {"action": action, "onExitCodes": {"containerName": TRAINER_CONTAINER, "operator": "In", "values": codes}}

    return [
        on_exit("FailJob", codes_with_retry("never")),
        on_exit("Ignore", free),
        {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
    ]
