"""What to do about one FineTuneJob now."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from finetune_operator.objects import Object, holds, is_finished, is_going, name_of, uid_of
from finetune_operator.observation import Observation


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


Action = CreateJob | PatchJob | DeleteJob


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
        return _plan_next_attempt(observation)
    return _plan_for_job(observation, observation.job)


def _plan_next_attempt(observation: Observation) -> Plan:
    assert observation.spec is not None  # noqa: S101  # for the type checker; the caller has looked
    if observation.spec.suspend or observation.leftovers:
        return Plan()  # a trainer that still stops must not meet its successor: both would write to the same place
    claimed, existing = observation.status.attempt or 0, observation.attempt
    # An attempt without a Job was claimed and not made, or its Job was deleted by hand: it is made (again), under the same name.
    return Plan((CreateJob(claimed if existing is None else max(existing + 1, claimed)),))


def _plan_for_job(observation: Observation, job: Object) -> Plan:
    spec = observation.spec
    assert spec is not None  # noqa: S101  # for the type checker; the caller has looked
    if is_finished(job) or is_going(job):
        return Plan()
    if spec.scheduling.queue_name is not None:
        # The queue owns `suspend` of its Jobs. A run suspended by its user gives its Job back and gets the next one on resume.
        return Plan((DeleteJob(name_of(job), uid_of(job)),)) if spec.suspend else Plan()
    patch: dict[str, Any] = {}
    if bool(job["spec"].get("suspend")) != spec.suspend:
        patch["suspend"] = spec.suspend
    if job["spec"].get("activeDeadlineSeconds") != spec.active_deadline_seconds:
        patch["activeDeadlineSeconds"] = spec.active_deadline_seconds
    return Plan((PatchJob(name_of(job), uid_of(job), {"spec": patch}),)) if patch else Plan()


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
