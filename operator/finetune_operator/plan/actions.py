"""What to do about one FineTuneJob now."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from finetune_api.names import ANNOTATION_DEACTIVATED, LABEL_ATTEMPT, LABEL_QUEUE_NAME, LABEL_WORKLOAD_PRIORITY
from finetune_operator.objects import (
    Object,
    holds,
    is_finished,
    is_going,
    is_lost,
    is_over,
    label_of,
    name_of,
    seconds_until_lost,
    uid_of,
)
from finetune_operator.observation import Observation
from finetune_operator.status.outcome import compute_pod_outcome, count_crashes
from finetune_operator.status.queueing import is_deactivated, is_preempted

MAX_INTERRUPTIONS: Final = 2
"""Interruptions of one Job before the run goes on in another: the wait after the first is 10 s, after the second it would be 20 s."""

FIRST_WAIT_SECONDS: Final = 10.0
MAX_WAIT_SECONDS: Final = 600.0
"""Shortest and longest wait of a failed group for its next attempt, as the Job's controller makes a single pod wait."""


@dataclass(frozen=True, slots=True)
class CreateJob:
    """Create the Job of an attempt."""

    attempt: int


@dataclass(frozen=True, slots=True)
class PatchJob:
    """Change a Job that exists."""

    name: str
    uid: str
    patch: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class DeleteJob:
    """Delete a Job and its pods."""

    name: str
    uid: str


@dataclass(frozen=True, slots=True)
class PatchWorkload:
    """Change the Workload of a Job: only to take a run that its user suspends out of the queue, and to put it back."""

    name: str
    uid: str
    patch: Mapping[str, Any]


Action = CreateJob | PatchJob | DeleteJob | PatchWorkload


@dataclass(frozen=True, slots=True)
class Plan:
    """Actions, in order, and when to look again if nothing happens before."""

    actions: tuple[Action, ...] = ()
    look_again_in: float | None = None
    """Seconds."""


def compute_plan(observation: Observation, now: datetime) -> Plan:
    """Decide what to do. The same observation and time give the same plan."""
    if observation.deleting:
        return Plan()  # the garbage collector takes the children
    if observation.status.phase is not None and observation.status.phase.is_terminal:
        return _plan_after_the_end(observation, now)
    if observation.spec is None:
        return Plan()
    if observation.job is None or _result_is_lost(observation):
        return _plan_next_attempt(observation, now)
    return _plan_for_job(observation, observation.job, now)


def _plan_next_attempt(observation: Observation, now: datetime) -> Plan:
    assert observation.spec is not None  # noqa: S101  # for the type checker; the caller has looked
    # A trainer that still stops must not meet its successor: both would write to the same place.
    stopping = [pod for pod in observation.leftovers if not is_lost(pod, now)]
    if observation.spec.suspend or stopping:
        return Plan(look_again_in=_look_for_lost(stopping, now))
    claimed, existing = observation.status.attempt or 0, observation.attempt
    if any(label_of(pod, LABEL_ATTEMPT) == str(claimed) and is_lost(pod, now) and _is_group(observation) for pod in observation.leftovers):
        claimed += 1  # the lost pod still has its name, by which the next one of its number would be found
    # An attempt without a Job was claimed and not made, or its Job was deleted by hand: it is made (again), under the same name.
    return Plan((CreateJob(claimed if existing is None else max(existing + 1, claimed)),))


def _plan_for_job(observation: Observation, job: Object, now: datetime) -> Plan:
    spec = observation.spec
    assert spec is not None  # noqa: S101  # for the type checker; the caller has looked
    if is_finished(job) or is_going(job):
        return Plan()
    alive = [pod for pod in (*observation.pods, *observation.leftovers) if not is_over(pod)]
    if not spec.suspend and _needs_new_job(observation, job, now):
        if any(not is_lost(pod, now) for pod in alive):
            # Of a group with a pod lost, the others are asked to stop; the next attempt follows when they have.
            return Plan((DeleteJob(name_of(job), uid_of(job)),), look_again_in=_look_for_lost(alive, now))
        # The old Job goes first: until then it may make a pod of its own.
        attempt = max(observation.attempt or 0, observation.status.attempt or 0) + 1
        return Plan((DeleteJob(name_of(job), uid_of(job)), CreateJob(attempt)))
    actions = _plan_held_job(observation, job) if is_held(observation, job) else _plan_own_job(observation, job)
    waits = [seconds for seconds in (_look_for_lost(alive, now), _seconds_until_retry(observation, job, now)) if seconds]
    return Plan(actions, look_again_in=min(waits, default=None))


def _look_for_lost(pods: list[Object], now: datetime) -> float | None:
    waits = [seconds for pod in pods if (seconds := seconds_until_lost(pod, now)) is not None]
    return min(waits) if waits and min(waits) > 0 else None


def is_held(observation: Observation, job: Object) -> bool:
    """True of a Job whose suspension is a queue's: it names one, or has a Workload, or was suspended at its creation, and not by us."""
    born_suspended = bool(job["spec"].get("suspend")) and job["metadata"].get("generation") == 1
    named = label_of(job, LABEL_QUEUE_NAME) or (observation.spec is not None and observation.spec.scheduling.queue_name)
    return bool(named) or observation.workload is not None or born_suspended


def _plan_own_job(observation: Observation, job: Object) -> tuple[Action, ...]:
    spec = observation.spec
    assert spec is not None  # noqa: S101  # as above
    patch = _patch_deadline(observation, job)
    if bool(job["spec"].get("suspend")) != spec.suspend:
        patch["suspend"] = spec.suspend
    return (PatchJob(name_of(job), uid_of(job), {"spec": patch}),) if patch else ()


def _plan_held_job(observation: Observation, job: Object) -> tuple[Action, ...]:
    """Leave `suspend` to the queue. A user's suspension goes through the Workload, where the queue itself takes such requests."""
    spec, workload = observation.spec, observation.workload
    assert spec is not None  # noqa: S101  # as above
    if workload is None and spec.suspend:
        return (DeleteJob(name_of(job), uid_of(job)),)
    actions: list[Action] = []
    if workload is not None and not is_going(workload):
        marked = ANNOTATION_DEACTIVATED in workload["metadata"].get("annotations", {})
        if spec.suspend and not (marked and is_deactivated(workload)):
            patch: dict[str, Any] = {"metadata": {"annotations": {ANNOTATION_DEACTIVATED: "true"}}, "spec": {"active": False}}
            actions.append(PatchWorkload(name_of(workload), uid_of(workload), patch))
        elif marked and not spec.suspend:
            patch = {"metadata": {"annotations": {ANNOTATION_DEACTIVATED: None}}, "spec": {"active": True}}
            actions.append(PatchWorkload(name_of(workload), uid_of(workload), patch))
    patch = {"spec": deadline} if (deadline := _patch_deadline(observation, job)) else {}
    wanted, present = spec.scheduling.workload_priority_class_name, label_of(job, LABEL_WORKLOAD_PRIORITY)
    # Kueue lets a class be changed at any time, added only while the Job is suspended, and never taken away.
    if wanted is not None and wanted != present and (present or job["spec"].get("suspend")):
        patch["metadata"] = {"labels": {LABEL_WORKLOAD_PRIORITY: wanted}}
    return (*actions, PatchJob(name_of(job), uid_of(job), patch)) if patch else tuple(actions)


def _patch_deadline(observation: Observation, job: Object) -> dict[str, Any]:
    wanted = observation.spec.active_deadline_seconds if observation.spec is not None else None
    return {"activeDeadlineSeconds": wanted} if job["spec"].get("activeDeadlineSeconds") != wanted else {}


def _needs_new_job(observation: Observation, job: Object, now: datetime) -> bool:
    """True where the run goes on better, or only, in a new Job.

    - All that is alive of it is lost with its node: this Job would wait for it for ever.
    - It was interrupted so often that the Job's controller, which takes interruptions for failures here, makes it wait: 10 s after the
      first, twice as long after each further one, up to 10 minutes.
    - It was interrupted, and was measured to need longer to stop than this Job gives it.
    """
    alive = [pod for pod in observation.pods if not is_over(pod)]
    if alive:
        # Lost pods of former Jobs are beside the point: this Job does not wait for them.
        # A group is lost with any of its pods.
        return (any if _is_group(observation) else all)(is_lost(pod, now) for pod in alive)
    if any(not is_lost(pod, now) for pod in observation.leftovers):
        return False
    status = observation.status
    if status.attempt != observation.attempt or status.pod is None or status.pod.end_time is None:
        return False
    if _seconds_until_retry(observation, job, now) == 0:
        return True
    if not status.attempt_interruptions:
        return False
    if is_held(observation, job):
        # Only after a preemption: any other new Job would lose quota, or what Kueue keeps count of.
        workload = observation.workload
        if workload is None or not job["spec"].get("suspend") or is_deactivated(workload) or not is_preempted(workload):
            return False
    grace = job["spec"].get("template", {}).get("spec", {}).get("terminationGracePeriodSeconds")
    too_short = grace is not None and observation.grace_seconds is not None and observation.grace_seconds > grace
    return too_short or status.attempt_interruptions >= (1 if _is_group(observation) else MAX_INTERRUPTIONS)


def _is_group(observation: Observation) -> bool:
    """True of a run of several pods. All of them end together, each one counts for the Job's wait, and it doubles with each."""
    return observation.spec is not None and observation.spec.resources.nodes > 1


def _seconds_until_retry(observation: Observation, job: Object, now: datetime) -> float | None:
    """Return in how many seconds a group that failed goes on in a new Job (0: now), or None where it does not.

    The wait is that of a Job of one pod: 10 s after the first failure, twice as long after each further one.
    """
    status = observation.status
    if not _is_group(observation) or is_held(observation, job) or not observation.pods or not all(map(is_over, observation.pods)):
        return None
    if status.pod is None or status.pod.end_time is None or status.attempt != observation.attempt:
        return None
    outcomes = [compute_pod_outcome(pod) for pod in observation.pods]
    crashes = sum(outcome is not None and outcome.retry == "counted" for outcome in outcomes)
    ends = any(outcome is not None and outcome.retry == "never" for outcome in outcomes)
    if not crashes or ends or count_crashes(observation) > job["spec"]["backoffLimit"]:
        return None
    wait: float = min(MAX_WAIT_SECONDS, FIRST_WAIT_SECONDS * 2 ** max(0, status.failures - 1))
    return max(0.0, wait - (now - status.pod.end_time).total_seconds())


def _plan_after_the_end(observation: Observation, now: datetime) -> Plan:
    jobs = [*observation.old_jobs, *([observation.job] if observation.job is not None else [])]
    ttl = observation.spec.ttl_seconds_after_finished if observation.spec else None
    end = observation.status.completion_time
    if not jobs or ttl is None or end is None:
        return Plan()
    left = (end + timedelta(seconds=ttl) - now).total_seconds()
    if left > 0:
        return Plan(look_again_in=left)
    return Plan(tuple(DeleteJob(name_of(job), uid_of(job)) for job in jobs if not is_going(job)))


def _result_is_lost(observation: Observation) -> bool:
    """True where the Job completed but no pod is left to say with what result: the next attempt finds it in the store."""
    return observation.job is not None and holds(observation.job, "Complete") and not observation.pods
