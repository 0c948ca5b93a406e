"""What stands between a run and its training, in words that a person can act on."""

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from finetune_api.names import MODEL_CACHE_CONTAINER
from finetune_api.reasons import Reason
from finetune_api.status import Phase
from finetune_operator.objects import Object, has_started, holds, index_of, is_lost, is_over, name_of, trainer_status_of
from finetune_operator.observation import Observation
from finetune_operator.status.outcome import budget_of, compute_pod_outcome, count_crashes
from finetune_operator.status.queueing import describe_eviction, diagnose_queue
from finetune_operator.status.scheduling import describe_group, describe_pod

_POD_IS_REFUSED: Final = re.compile(r'^Error creating: [Pp]ods? "[^"]*" is (?:forbidden|invalid): ')
"""The name of the pod differs with each try; without it the message stays the same, and nothing is written for it."""
_BACK_OFF: Final = re.compile(r'^Back-off pulling image "[^"]*"(?:: (?:ErrImagePull|ImagePullBackOff))?:? ?')
_SECRET: Final = re.compile(r'secret "([^"]+)" not found')

_WAITING: Final = "Waits for its pod to be created and given a node."
_WAITING_TOGETHER: Final = (
    "Waits for its pods to be created and given nodes, all together, by the scheduler that gangScheduling.{gang} of the chart names."
)

NEEDS_HELP: Final = frozenset(
    {
        Reason.VALIDATION_FAILED,
        Reason.IMAGE_PULL_FAILED,
        Reason.SECRET_NOT_FOUND,
        Reason.CONTAINER_CONFIG_INVALID,
        Reason.VOLUME_UNAVAILABLE,
        Reason.POLICY_REFUSED,
        Reason.POD_CREATION_FAILED,
        Reason.NAME_TAKEN,
        Reason.INADMISSIBLE,
        Reason.DEACTIVATED,
    }
)
"""Reasons that do not go away by waiting."""
WAITS_IN_QUEUE: Final = frozenset({Reason.QUEUED, Reason.QUOTA_RESERVED, Reason.PREEMPTED})
"""Reasons that are a queue's everyday work."""
NOT_ADMITTED: Final = WAITS_IN_QUEUE | {
    Reason.EVICTED,
    Reason.INADMISSIBLE,
    Reason.DEACTIVATED,
    Reason.QUOTA_EXCEEDED,
    Reason.POLICY_REFUSED,
    Reason.UNSCHEDULABLE,
    Reason.NO_FITTING_NODE,
}
"""Reasons for which the cluster holds a run back."""


_WAITS_FOR_NODE: Final = frozenset({Reason.WAITING_FOR_POD, Reason.UNSCHEDULABLE, Reason.QUEUED})
"""Reasons that are beside the point where no node could ever take the run. It is no reason to stop: an autoscaler may add the node."""


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """Where a run that has not ended stands."""

    phase: Phase
    reason: Reason
    message: str


def compute_diagnosis(observation: Observation, now: datetime | None = None) -> Diagnosis:
    """Return where the run stands. It has not ended, and has a valid specification or at least a Job."""
    diagnosis = _diagnose(observation, now)
    if observation.misfit is not None and diagnosis.reason in _WAITS_FOR_NODE:
        return Diagnosis(diagnosis.phase, Reason.NO_FITTING_NODE, observation.misfit)
    return diagnosis


def _diagnose(observation: Observation, now: datetime | None) -> Diagnosis:
    job, pod = observation.job, _current_pod(observation)
    alive = pod is not None and not is_over(pod)
    wants_suspension = observation.spec is not None and observation.spec.suspend
    if wants_suspension and any(
        has_started(pod) and not is_over(pod) and (now is None or not is_lost(pod, now))
        for pod in (*observation.pods, *observation.leftovers)
    ):
        return Diagnosis(Phase.RUNNING, Reason.STOPPING, "Suspended: the trainer writes a checkpoint and stops.")
    if wants_suspension:
        return Diagnosis(Phase.SUSPENDED, Reason.SUSPENDED, "Suspended by spec.suspend; set it to false to go on from the last checkpoint.")
    if observation.refusal is not None:
        return Diagnosis(Phase.PENDING, observation.refusal.reason, observation.refusal.message)
    if job is None and observation.leftovers:
        message = (
            f"Waits for pod {name_of(observation.leftovers[0])} of the former Job to end; the next one resumes from its last checkpoint."
        )
        return Diagnosis(Phase.PENDING, Reason.WAITING_FOR_POD, message)
    if job is None or holds(job, "Complete"):
        return _waits_for_pod(observation)
    if pod is not None and alive:
        return _diagnose_pod(pod, observation)
    if holds(job, "Suspended") or job["spec"].get("suspend"):
        return _diagnose_suspended_job(observation)
    return _diagnose_absence(observation, pod)


def _current_pod(observation: Observation) -> Object | None:
    alive = [pod for pod in observation.pods if not is_over(pod)]
    candidates = alive or list(observation.pods)
    if len(candidates) < 2 or observation.spec is None or observation.spec.resources.nodes == 1:
        return candidates[-1] if candidates else None
    if alive:  # a group is as far as the last of its pods, and otherwise its first one speaks for it
        return min(reversed(alive), key=lambda pod: (_stage_of(pod), index_of(pod)))
    # the one whose end is counted is why the others ended
    outcomes = [(pod, compute_pod_outcome(pod)) for pod in candidates]
    guilty = [pod for pod, outcome in outcomes if outcome is not None and outcome.retry == "counted"]
    return (guilty or [pod for pod in candidates if index_of(pod) == 0] or candidates)[-1]


def _stage_of(pod: Object) -> int:
    if "deletionTimestamp" in pod["metadata"]:
        return 2
    return 3 if has_started(pod) else 1 if pod["spec"].get("nodeName") else 0


def _diagnose_pod(pod: Object, observation: Observation) -> Diagnosis:
    if has_started(pod):
        if "deletionTimestamp" in pod["metadata"]:
            if observation.workload is not None and (eviction := describe_eviction(observation.workload)) is not None:
                return Diagnosis(Phase.RUNNING, eviction[0], f"{eviction[1]} The trainer writes a checkpoint and stops.")
            return Diagnosis(
                Phase.RUNNING, Reason.INTERRUPTED, "The pod was asked to stop: the trainer writes a checkpoint, and the next pod resumes."
            )
        where = f" on node {pod['spec']['nodeName']}" if pod["spec"].get("nodeName") else ""
        note = (
            " It trains on the CPU: this cluster's GPUs are simulated."
            if observation.simulated_gpus and _asked_for_gpus(observation)
            else ""
        )
        return Diagnosis(Phase.RUNNING, Reason.TRAINING, f"The trainer runs in pod {name_of(pod)}{where}.{note}")
    if not pod["spec"].get("nodeName"):
        return _diagnose_scheduling(pod, observation)
    return _diagnose_start(pod)


def _diagnose_scheduling(pod: Object, observation: Observation) -> Diagnosis:
    gang = _gang_of(observation)
    if observation.spec is not None and gang is not None:
        size, alive = observation.spec.resources.nodes, [each for each in observation.pods if not is_over(each)]
        if len(alive) < size and observation.warning is not None:
            return diagnose_refusal(observation.warning.get("message", ""))  # the others wait for pods that can't be made
        message = describe_group([each for each in alive if not each["spec"].get("nodeName")], size, gang)
    else:
        message = describe_pod(pod)
    if message is None:
        return _waits_for_pod(observation)
    if (template := _template_of(observation)) is not None:
        message += f" Its GPUs are claimed by ResourceClaimTemplate {template}."
    return Diagnosis(Phase.PENDING, Reason.UNSCHEDULABLE, message)


def _waits_for_pod(observation: Observation) -> Diagnosis:
    """Say the same before and after the Job is created: one write for both."""
    template = _template_of(observation)
    # The scheduler leaves a pod alone, without a word, until the claim is made from its template.
    note = f" Its claim is made from ResourceClaimTemplate {template}, which must exist in this namespace." if template is not None else ""
    gang = _gang_of(observation)
    waiting = _WAITING if gang is None else _WAITING_TOGETHER.format(gang=gang)
    return Diagnosis(Phase.PENDING, Reason.WAITING_FOR_POD, waiting + note)


def _gang_of(observation: Observation) -> str | None:
    return observation.spec.scheduling.gang if observation.spec is not None else None


def _template_of(observation: Observation) -> str | None:
    return observation.spec.resources.gpu_claim_template if observation.spec is not None else None


def _diagnose_start(pod: Object) -> Diagnosis:
    status = trainer_status_of(pod)
    waiting: Object = status.get("state", {}).get("waiting") or {}
    why, words = waiting.get("reason", ""), waiting.get("message", "")
    if why in ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "ImageInspectError", "RegistryUnavailable"):
        image = pod["spec"]["containers"][0]["image"]
        detail = _BACK_OFF.sub("", words)
        return Diagnosis(Phase.STARTING, Reason.IMAGE_PULL_FAILED, f"The image {image} can't be pulled. {detail}".strip())
    if why in ("CreateContainerConfigError", "CreateContainerError", "RunContainerError"):
        if secret := _SECRET.search(words):
            message = f"Secret {secret[1]} does not exist in namespace {pod['metadata']['namespace']}; create it, and the pod starts."
            return Diagnosis(Phase.STARTING, Reason.SECRET_NOT_FOUND, message)
        return Diagnosis(Phase.STARTING, Reason.CONTAINER_CONFIG_INVALID, f"The container can't be made: {words}")
    for filler in pod.get("status", {}).get("initContainerStatuses") or ():
        if filler["name"] == MODEL_CACHE_CONTAINER and "running" in filler.get("state", {}):
            message = f"On node {pod['spec']['nodeName']}: the base model is looked up in the model cache, and fetched into it if need be."
            return Diagnosis(Phase.STARTING, Reason.STARTING, message)
    return Diagnosis(
        Phase.STARTING, Reason.STARTING, f"The pod starts on node {pod['spec']['nodeName']}: its image is pulled, its container made."
    )


def _diagnose_absence(observation: Observation, last: Object | None) -> Diagnosis:
    """No pod is alive: it was never made, can't be made, or the next one waits for the Job's back-off."""
    outcome = compute_pod_outcome(last) if last is not None else None
    if outcome is not None and outcome.retry == "free":
        return Diagnosis(Phase.STARTING, Reason.INTERRUPTED, f"{outcome.message} The next pod resumes from the last checkpoint.")
    if outcome is not None and outcome.retry == "counted" and observation.job is not None:
        budget = budget_of(observation)
        used = budget - observation.job["spec"]["backoffLimit"] + count_crashes(observation)
        message = f"{outcome.message} Retry {used} of {budget} follows."
        return Diagnosis(Phase.STARTING, Reason.RETRYING, message)
    if observation.warning is not None:
        return diagnose_refusal(observation.warning.get("message", ""))
    return _waits_for_pod(observation)


def diagnose_refusal(words: str) -> Diagnosis:
    """Sort the API server's refusal of a pod or Job by what would mend it."""
    detail = _POD_IS_REFUSED.sub("", words.strip())
    if "exceeded quota" in detail or "failed quota" in detail:
        return Diagnosis(Phase.PENDING, Reason.QUOTA_EXCEEDED, f"A ResourceQuota of the namespace has no room: {detail}")
    policies = (
        "violates PodSecurity",
        "ValidatingAdmissionPolicy",
        "admission webhook",
        "maximum ",
        "minimum ",
        "is forbidden",
        "PriorityClass",
    )
    if words != detail or any(policy in detail for policy in policies):
        return Diagnosis(Phase.PENDING, Reason.POLICY_REFUSED, f"The cluster's policy refuses the pod: {detail}")
    return Diagnosis(Phase.PENDING, Reason.POD_CREATION_FAILED, f"The pod can't be created: {detail}")


def _diagnose_suspended_job(observation: Observation) -> Diagnosis:
    job = observation.job
    assert job is not None  # noqa: S101  # for the type checker; the caller has looked
    if observation.queue_name is None and observation.workload is None and job["metadata"].get("generation") != 1:
        return Diagnosis(Phase.QUEUED, Reason.QUEUED, "The Job is being resumed.")
    reason, message = diagnose_queue(observation)
    return Diagnosis(Phase.QUEUED, reason, message)


def _asked_for_gpus(observation: Observation) -> bool:
    return observation.spec is not None and observation.spec.resources.gpus > 0
