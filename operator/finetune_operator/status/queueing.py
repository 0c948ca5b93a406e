"""What a queue (Kueue) says of a run, in words that a person can act on."""

from typing import Final

from finetune_api.reasons import Reason
from finetune_api.status import QueueStatus
from finetune_operator.objects import Object, condition_of, holds, name_of, parse_time
from finetune_operator.observation import Observation

_BEYOND_WAITING: Final = frozenset({"Inadmissible", "Misconfigured", "ExceedsMaxQuota", "NoMatchingFlavor", "Suspended", "OnHold"})
"""Reasons of a Workload's `QuotaReserved` that no other run's end will change."""


def compute_queue_status(observation: Observation) -> QueueStatus | None:
    """Return where the run stands with its queue, or None where it has none."""
    workload = observation.workload
    name = (workload["spec"].get("queueName") if workload is not None else None) or observation.queue_name
    if not name:
        return None
    if workload is None:
        return QueueStatus(name=name)
    waits = not holds(workload, "QuotaReserved")
    status = workload["status"]
    return QueueStatus(
        name=name,
        workload=name_of(workload),
        cluster_queue=(status.get("admission") or {}).get("clusterQueue") or None,
        position=observation.position if waits else None,
        requeue_time=parse_time((status.get("requeueState") or {}).get("requeueAt")) if waits else None,
    )


def is_deactivated(workload: Object) -> bool:
    """True of a Workload that its queue leaves out."""
    return workload["spec"].get("active", True) is False


def is_preempted(workload: Object) -> bool:
    """True of a Workload that lost its quota to another."""
    evicted = condition_of(workload, "Evicted")
    return evicted is not None and evicted["status"] == "True" and evicted.get("reason") == "Preempted"


def describe_eviction(workload: Object) -> tuple[Reason, str] | None:
    """Return why the Workload's quota was taken back, or None where it was not (or where it has quota again)."""
    evicted = condition_of(workload, "Evicted")
    if evicted is None or evicted["status"] != "True":
        return None
    words = evicted.get("message", "").strip().rstrip(".")
    if evicted.get("reason") == "Preempted":
        preempted = condition_of(workload, "Preempted")
        why = f" ({preempted['reason']})" if preempted is not None and preempted["status"] == "True" and preempted.get("reason") else ""
        return Reason.PREEMPTED, f"The queue took the quota for another run{why}: {words}."
    return Reason.EVICTED, f"The queue took the quota back ({evicted.get('reason', '')}): {words}."


def diagnose_queue(observation: Observation) -> tuple[Reason, str]:
    """Return why a run whose Job is suspended, and not by its user, does not go ahead."""
    queue, workload = observation.queue_name, observation.workload
    where = f"queue {queue}" if queue else "a queue"
    if workload is None:
        if queue and not observation.kueue:
            return Reason.INADMISSIBLE, (
                f"The run asks for queue {queue}, but Kueue is not installed in this cluster: nothing will start it. "
                "Install Kueue, or create the run anew without scheduling.queueName."
            )
        return Reason.QUEUED, f"Waits in {where}." if queue else "The Job was suspended when it was created, and waits to be started."
    if holds(workload, "Finished"):
        finished = condition_of(workload, "Finished") or {}
        words = finished.get("message", "").strip() or finished.get("reason", "")
        return Reason.INADMISSIBLE, f"Kueue gave the run up: {words} Create it anew once that is mended."
    if is_deactivated(workload):
        return _diagnose_deactivation(workload)
    reserved = condition_of(workload, "QuotaReserved")
    if holds(workload, "Admitted"):
        return Reason.ADMITTED, f"Admitted by {where}; its Job is being started."
    if reserved is not None and reserved["status"] == "True":
        cluster_queue = (workload["status"].get("admission") or {}).get("clusterQueue") or "the ClusterQueue"
        return Reason.QUOTA_RESERVED, f"Quota is reserved in {cluster_queue}. {_describe_checks(workload)}".strip()
    place = f" at place {observation.position}" if observation.position is not None else ""
    words = reserved.get("message", "").strip() if reserved is not None else ""
    if reserved is not None and reserved.get("reason") in _BEYOND_WAITING:
        return Reason.INADMISSIBLE, f"The run can't be admitted by {where} ({reserved['reason']}): {words}"
    if (eviction := describe_eviction(workload)) is not None:
        requeue = (workload["status"].get("requeueState") or {}).get("requeueAt")
        later = f" It is considered again at {requeue}." if requeue else ""
        return eviction[0], f"{eviction[1]} Waits in {where}{place}, and resumes from its last checkpoint.{later}"
    return Reason.QUEUED, f"Waits in {where}{place}." + (f" {words}" if words else "")


def _diagnose_deactivation(workload: Object) -> tuple[Reason, str]:
    evicted = condition_of(workload, "Evicted") or {}
    target = condition_of(workload, "DeactivationTarget") or {}
    words = (target.get("message") or evicted.get("message") or "").strip().rstrip(".")
    why = f" ({words})" if words else ""
    return Reason.DEACTIVATED, (
        f"Workload {name_of(workload)} was deactivated{why}. Set spec.suspend to true and then to false to queue the run again."
    )


def _describe_checks(workload: Object) -> str:
    open_checks = [check for check in workload["status"].get("admissionChecks", ()) if check["state"] != "Ready"]
    if not open_checks:
        return "Waits for admission."
    words = ", ".join(
        f"{check['name']} is {check['state']}" + (f" ({check['message'].strip().rstrip('.')})" if check["message"] else "")
        for check in open_checks
    )
    return f"Waits for admission checks: {words}."
