"""What a queue says of a run, and what is done about it: case by case."""

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import pytest

from finetune_api.base import format_time
from finetune_api.names import ANNOTATION_DEACTIVATED, LABEL_QUEUE_NAME, LABEL_WORKLOAD_PRIORITY
from finetune_api.reasons import Reason
from finetune_api.status import ConditionType, FineTuneJobStatus, Phase
from finetune_operator.desired.job import build_job
from finetune_operator.objects import name_of, uid_of
from finetune_operator.plan.actions import CreateJob, DeleteJob, PatchJob, PatchWorkload, Plan, compute_plan
from finetune_operator.settings import TrainerSettings
from finetune_operator.status.compute import compute_status
from finetune_operator.status.events import build_event
from tests.support.manifests import Manifest, merge
from tests.support.world import (
    JOB_UID,
    NOW,
    REF,
    at,
    build_finetunejob,
    build_pod,
    build_spec,
    build_stored_job,
    build_workload,
    condition,
    observe,
    running,
)

QUEUED: Manifest = {"scheduling": {"queueName": "team-a"}}
SPEC = build_spec(QUEUED)
HELD = build_stored_job(spec=SPEC, suspend=True)
GOES = build_stored_job(spec=SPEC, suspend=False)
RESERVED = condition("QuotaReserved", "QuotaReserved")
PREEMPTED = condition("Evicted", "Preempted", "Preempted to accommodate a workload (UID: u) in the ClusterQueue")


@dataclass(frozen=True)
class Verdict:
    """What a Workload looks like, and what status should say then."""

    name: str
    workload: Manifest | None
    reason: Reason
    words: str
    admitted: str = "False"
    stalled: bool = False
    kueue: bool = True

    def __str__(self) -> str:
        """Return the name, for pytest."""
        return self.name


VERDICTS = [
    Verdict("no Workload yet", None, Reason.QUEUED, "Waits in queue team-a."),
    Verdict("no Kueue at all", None, Reason.INADMISSIBLE, "Kueue is not installed", stalled=True, kueue=False),
    Verdict("not looked at yet", build_workload(), Reason.QUEUED, "Waits in queue team-a."),
    Verdict(
        "no room",
        build_workload(condition("QuotaReserved", "Pending", "insufficient unused quota for nvidia.com/gpu", "False")),
        Reason.QUEUED,
        "insufficient unused quota for nvidia.com/gpu",
    ),
    Verdict(
        "no such queue",
        build_workload(condition("QuotaReserved", "Inadmissible", "LocalQueue team-a doesn't exist", "False")),
        Reason.INADMISSIBLE,
        "LocalQueue team-a doesn't exist",
        stalled=True,
    ),
    Verdict(
        "more than the queue will ever have",
        build_workload(condition("QuotaReserved", "ExceedsMaxQuota", "exceeds the maximum", "False")),
        Reason.INADMISSIBLE,
        "exceeds the maximum",
        stalled=True,
    ),
    Verdict(
        "checks are open",
        build_workload(
            RESERVED,
            admission={"clusterQueue": "gpus"},
            admissionChecks=[
                {"name": "capacity", "state": "Pending", "message": "nodes are made."},
                {"name": "budget", "state": "Ready", "message": ""},
            ],
        ),
        Reason.QUOTA_RESERVED,
        "Quota is reserved in gpus. Waits for admission checks: capacity is Pending (nodes are made).",
    ),
    Verdict("admitted", build_workload(RESERVED, condition("Admitted", "Admitted")), Reason.ADMITTED, "is being started", "True"),
    Verdict(
        "preempted",
        build_workload(PREEMPTED, condition("Preempted", "InClusterQueue"), condition("QuotaReserved", "Pending", "", "False")),
        Reason.PREEMPTED,
        "(InClusterQueue): Preempted to accommodate",
    ),
    Verdict(
        "evicted for pods that were not ready, with a back-off",
        build_workload(
            condition("Evicted", "PodsReadyTimeout", "Exceeded the PodsReady timeout"),
            requeueState={"count": 2, "requeueAt": "2026-01-02T04:00:00Z"},
        ),
        Reason.EVICTED,
        "It is considered again at 2026-01-02T04:00:00Z.",
    ),
    Verdict(
        "deactivated by Kueue",
        build_workload(condition("Evicted", "Deactivated", "The workload is deactivated due to exceeding"), active=False),
        Reason.DEACTIVATED,
        "Set spec.suspend to true and then to false",
        stalled=True,
    ),
    Verdict(
        "given up by Kueue",
        build_workload(condition("Finished", "FailedToStart", "conflicting node selector")),
        Reason.INADMISSIBLE,
        "conflicting node selector",
        stalled=True,
    ),
]


def _status(
    workload: Manifest | None, *, job: Manifest = HELD, status: Manifest | None = None, seconds: float = 0, **more: Any
) -> FineTuneJobStatus:
    return compute_status(observe(build_finetunejob(QUEUED, status), jobs=[job], workload=workload, **more), at(seconds))


@pytest.mark.parametrize("verdict", VERDICTS, ids=str)
def test_verdict(verdict: Verdict) -> None:
    status = _status(verdict.workload, kueue=verdict.kueue)
    conditions = {each.type: each for each in status.conditions}
    assert status.phase is Phase.QUEUED
    assert conditions[ConditionType.SUCCEEDED].reason == verdict.reason
    assert verdict.words in conditions[ConditionType.SUCCEEDED].message
    assert conditions[ConditionType.ADMITTED].status == verdict.admitted
    assert conditions[ConditionType.STALLED].status == ("True" if verdict.stalled else "False")


def test_each_step_in_the_queue_is_an_event() -> None:
    steps = [_status(verdict.workload, kueue=verdict.kueue) for verdict in VERDICTS if verdict.kueue]
    reasons = [event["reason"] for before, after in pairwise(steps) if (event := build_event(REF, before, after, NOW))]
    assert {"Preempted", "Evicted", "Deactivated", "Inadmissible", "QuotaReserved", "Admitted"} <= set(reasons)


def test_the_queue_is_shown_with_its_workload() -> None:
    queue = _status(build_workload(RESERVED, admission={"clusterQueue": "gpus", "podSetAssignments": []})).queue
    assert queue is not None
    assert (queue.name, queue.workload, queue.cluster_queue, queue.position) == ("team-a", "job-support-bot-12345", "gpus", None)


def test_a_trainer_that_is_preempted_by_the_queue_says_so_while_it_stops() -> None:
    pod = build_pod(phase="Running", state=running(), deleting=True)
    status = _status(build_workload(PREEMPTED, condition("Preempted", "InCohortReclamation")), pods=[pod])
    succeeded = next(each for each in status.conditions if each.type == ConditionType.SUCCEEDED)
    assert (status.phase, succeeded.reason) == (Phase.RUNNING, Reason.PREEMPTED)
    assert "writes a checkpoint" in succeeded.message


def test_waiting_and_running_are_counted_apart() -> None:
    waits = _status(build_workload(), seconds=10)
    assert (waits.queued_since, waits.queued_seconds) == (NOW, 0)
    placed = condition("PodScheduled") | {"lastTransitionTime": format_time(at(100))}
    pod = build_pod(phase="Running", state=running(at(110)), created=at(100), conditions=[placed])
    written = waits.model_dump(mode="json", exclude_none=True)
    runs = _status(build_workload(RESERVED), job=GOES, status=written, seconds=111, pods=[pod])
    assert (runs.phase, runs.queued_since, runs.queued_seconds, runs.running_seconds) == (Phase.RUNNING, None, 100, 0)


def test_what_was_waited_before_the_first_status_is_counted_too() -> None:
    placed = condition("PodScheduled") | {"lastTransitionTime": format_time(at(100))}
    pod = build_pod(phase="Running", state=running(at(110)), created=at(1), conditions=[placed])
    runs = _status(build_workload(RESERVED), job=GOES, seconds=111, pods=[pod])
    assert (runs.phase, runs.queued_since, runs.queued_seconds) == (Phase.RUNNING, None, 100)


def test_a_run_that_was_suspended_when_it_was_first_seen_has_not_waited() -> None:
    status = compute_status(observe(build_finetunejob({"suspend": True})), at(86_400))
    assert (status.phase, status.queued_since, status.queued_seconds) == (Phase.SUSPENDED, None, 0)


@dataclass(frozen=True)
class Policy:
    """A situation in a queue and what is to be done in it."""

    name: str
    expected: Plan
    spec: Manifest = field(default_factory=dict)
    job: Manifest = field(default_factory=lambda: HELD)
    workload: Manifest | None = None
    status: Manifest | None = None

    def __str__(self) -> str:
        """Return the name, for pytest."""
        return self.name


WORKLOAD = build_workload()
MARKED = merge(build_workload(active=False), {"metadata": {"annotations": {ANNOTATION_DEACTIVATED: "true"}}})
DEFAULTED = merge(build_stored_job(suspend=True), {"metadata": {"labels": {LABEL_QUEUE_NAME: "default"}}})
BORN_SUSPENDED = merge(build_stored_job(suspend=True), {"metadata": {"generation": 1}})
RANKED: Manifest = {"scheduling": {"workloadPriorityClassName": "urgent"}}
INTERRUPTED: Manifest = {
    "phase": "Queued",
    "attempt": 0,
    "attemptInterruptions": 2,
    "interruptions": 2,
    "pod": {"name": "p", "uid": "u", "endTime": format_time(NOW)},
}


def _leave(mark: str | None, *, active: bool) -> Plan:
    patch = {"metadata": {"annotations": {ANNOTATION_DEACTIVATED: mark}}, "spec": {"active": active}}
    return Plan((PatchWorkload(name_of(WORKLOAD), uid_of(WORKLOAD), patch),))


POLICIES = [
    Policy("a Job that waits is left alone", Plan()),
    Policy("one that goes is left alone", Plan(), job=GOES, workload=WORKLOAD),
    Policy("one that Kueue gave its default queue is left alone", Plan(), {"scheduling": {"queueName": None}}, job=DEFAULTED),
    Policy("one that was suspended at its birth is left alone", Plan(), {"scheduling": {"queueName": None}}, job=BORN_SUSPENDED),
    Policy(
        "one with a Workload but no queue is left alone",
        Plan(),
        {"scheduling": {"queueName": None}},
        job=build_stored_job(suspend=True),
        workload=build_workload(queue=""),
    ),
    Policy("a user's suspension takes the run out of the queue", _leave("true", active=False), {"suspend": True}, workload=WORKLOAD),
    Policy("of one that runs too", _leave("true", active=False), {"suspend": True}, job=GOES, workload=WORKLOAD),
    Policy("once", Plan(), {"suspend": True}, workload=MARKED),
    Policy("resuming puts it back", _leave(None, active=True), workload=MARKED),
    Policy("what Kueue deactivated stays so", Plan(), workload=build_workload(active=False)),
    Policy("suspending it makes that the user's", _leave("true", active=False), {"suspend": True}, workload=build_workload(active=False)),
    Policy("before there is a Workload the Job is given back", Plan((DeleteJob(name_of(HELD), JOB_UID),)), {"suspend": True}),
    Policy(
        "a priority reaches a Job that waits",
        Plan((PatchJob(name_of(HELD), JOB_UID, {"metadata": {"labels": {LABEL_WORKLOAD_PRIORITY: "urgent"}}}),)),
        RANKED,
        workload=WORKLOAD,
    ),
    Policy("but is not added to one that runs: Kueue refuses that", Plan(), RANKED, job=GOES, workload=WORKLOAD),
    Policy(
        "where it may be changed",
        Plan((PatchJob(name_of(HELD), JOB_UID, {"metadata": {"labels": {LABEL_WORKLOAD_PRIORITY: "urgent"}}}),)),
        RANKED,
        job=merge(GOES, {"metadata": {"labels": {LABEL_WORKLOAD_PRIORITY: "low"}}}),
        workload=WORKLOAD,
    ),
    Policy(
        "and never taken away",
        Plan(),
        job=merge(HELD, {"metadata": {"labels": {LABEL_WORKLOAD_PRIORITY: "low"}}}),
        workload=WORKLOAD,
    ),
    Policy(
        "after two preemptions the next Job does not wait for the Job controller",
        Plan((DeleteJob(name_of(HELD), JOB_UID), CreateJob(1))),
        workload=build_workload(PREEMPTED),
        status=INTERRUPTED,
    ),
    Policy(
        "but an eviction with a back-off of Kueue's own keeps its Workload",
        Plan(),
        workload=build_workload(condition("Evicted", "PodsReadyTimeout")),
        status=INTERRUPTED,
    ),
    Policy("and an admitted Job keeps its quota", Plan(), job=GOES, workload=build_workload(RESERVED), status=INTERRUPTED),
    Policy(
        "and a deactivated one stays out",
        Plan(),
        workload=build_workload(PREEMPTED, active=False),
        status=INTERRUPTED,
    ),
]


@pytest.mark.parametrize("policy", POLICIES, ids=str)
def test_policy(policy: Policy) -> None:
    observation = observe(build_finetunejob(merge(QUEUED, policy.spec), policy.status), jobs=[policy.job], workload=policy.workload)
    assert compute_plan(observation, NOW) == policy.expected


def test_queue_and_priority_are_labels_of_the_job_and_not_of_its_pods() -> None:
    spec = build_spec(merge(QUEUED, RANKED))
    job = build_job(spec, REF, 0, trainer=TrainerSettings(image="t"), reporting=None)
    assert job["metadata"]["labels"][LABEL_QUEUE_NAME] == "team-a"
    assert job["metadata"]["labels"][LABEL_WORKLOAD_PRIORITY] == "urgent"
    assert job["spec"]["suspend"] is True
    assert not [label for label in job["spec"]["template"]["metadata"]["labels"] if "kueue" in label]


def test_the_platform_s_queue_is_for_runs_that_name_none() -> None:
    trainer = TrainerSettings(image="t", default_queue="shared")
    queues = [
        build_job(spec, REF, 0, trainer=trainer, reporting=None)["metadata"]["labels"][LABEL_QUEUE_NAME] for spec in (build_spec(), SPEC)
    ]
    assert queues == ["shared", "team-a"]
