"""What is done about a FineTuneJob: the policies, one by one."""

from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_api.base import format_time
from finetune_operator.objects import name_of, uid_of
from finetune_operator.plan.actions import CreateJob, DeleteJob, PatchJob, Plan, compute_plan
from tests.support.manifests import Manifest, merge
from tests.support.world import (
    COMPLETE,
    FAILED,
    JOB_UID,
    NOW,
    at,
    build_ended_pod,
    build_finetunejob,
    build_pod,
    build_spec,
    build_stored_job,
    observe,
    running,
)

QUEUED: Manifest = {"scheduling": {"queueName": "team-a"}}
SUSPENDED: Manifest = {"suspend": True}
DONE: Manifest = {"phase": "Succeeded", "completionTime": format_time(NOW), "attempt": 0}
CLAIMED: Manifest = {"phase": "Pending", "attempt": 2, "jobName": "support-bot-b8a9b-2"}
INVALID: Manifest = {"training": {"epochs": -1}}
GOING: Manifest = {"metadata": {"deletionTimestamp": format_time(NOW)}}


@dataclass(frozen=True)
class Policy:
    """A situation and what is to be done in it."""

    name: str
    spec: Manifest = field(default_factory=dict)
    status: Manifest | None = None
    job: Manifest | None = None
    pods: tuple[Manifest, ...] = ()
    seconds: float = 0
    deleting: bool = False
    expected: Plan = field(default_factory=Plan)

    def __str__(self) -> str:
        """Return the name, for pytest."""
        return self.name


JOB = build_stored_job(suspend=False)
PAUSED = build_stored_job(suspend=True)
LIMITED = build_stored_job(suspend=False, activeDeadlineSeconds=60)
ENDED = build_stored_job(conditions=[COMPLETE])
DELETE = Plan((DeleteJob(name_of(JOB), JOB_UID),))


def _patch(**spec: Any) -> Plan:
    return Plan((PatchJob(name_of(JOB), JOB_UID, {"spec": spec}),))


POLICIES = [
    Policy("a new run gets its first Job", expected=Plan((CreateJob(0),))),
    Policy("an invalid one gets none", INVALID),
    Policy("a suspended one gets none", SUSPENDED),
    Policy("one that is being deleted gets none", deleting=True),
    Policy("a claimed attempt without a Job is made", status=CLAIMED, expected=Plan((CreateJob(2),))),
    Policy("a Job that runs is left alone", job=JOB),
    Policy("a Job of a run that is being deleted is left to the garbage collector", SUSPENDED, job=JOB, deleting=True),
    Policy("an invalid spec (of an older operator's run) leaves its Job alone", INVALID, job=JOB),
    Policy("suspending stops the Job", SUSPENDED, job=JOB, expected=_patch(suspend=True)),
    Policy("a suspended Job stays so", SUSPENDED, job=PAUSED),
    Policy("resuming starts the Job", job=PAUSED, expected=_patch(suspend=False)),
    Policy("a new deadline reaches the Job", {"activeDeadlineSeconds": 60}, job=JOB, expected=_patch(activeDeadlineSeconds=60)),
    Policy("a changed deadline reaches the Job", {"activeDeadlineSeconds": 90}, job=LIMITED, expected=_patch(activeDeadlineSeconds=90)),
    Policy("a deadline taken away leaves the Job", job=LIMITED, expected=_patch(activeDeadlineSeconds=None)),
    Policy("an unchanged deadline changes nothing", {"activeDeadlineSeconds": 60}, job=LIMITED),
    Policy(
        "suspension and deadline go in one patch",
        {"suspend": True, "activeDeadlineSeconds": 9},
        job=JOB,
        expected=_patch(suspend=True, activeDeadlineSeconds=9),
    ),
    Policy("the queue's suspension is the queue's", QUEUED, job=PAUSED),
    Policy("the queue's admission is the queue's", QUEUED, job=JOB),
    Policy("a queued run that is suspended gives its Job back", {**QUEUED, **SUSPENDED}, job=JOB, expected=DELETE),
    Policy("a Job that goes already is not deleted again", {**QUEUED, **SUSPENDED}, job=merge(JOB, GOING)),
    Policy("a Job that goes is not patched", SUSPENDED, job=merge(JOB, GOING)),
    Policy("a finished Job is not patched", SUSPENDED, job=ENDED, pods=(build_ended_pod(0),)),
    Policy("a failed Job is not patched", SUSPENDED, job=build_stored_job(conditions=[FAILED]), pods=(build_ended_pod(64),)),
    Policy("a lost result is looked for by the next attempt", job=ENDED, expected=Plan((CreateJob(1),))),
    Policy("which is claimed already", status={"attempt": 1}, job=ENDED, expected=Plan((CreateJob(1),))),
    Policy("and not while suspended", SUSPENDED, job=ENDED),
    Policy(
        "the next Job waits for a pod of the last one",
        status=CLAIMED,
        pods=(build_pod(phase="Running", state=running(), controller="gone"),),
    ),
    Policy(
        "and for one without any Job (kubectl delete --cascade=orphan)",
        status=CLAIMED,
        pods=(build_pod(phase="Running", state=running(), controller=None),),
    ),
    Policy(
        "but not for one that is over",
        status=CLAIMED,
        pods=(build_ended_pod(75, controller="gone"),),
        expected=Plan((CreateJob(2),)),
    ),
    Policy(
        "nor for one in another namespace",
        status=CLAIMED,
        pods=(build_pod(phase="Running", state=running(), controller="gone", namespace="team-b"),),
        expected=Plan((CreateJob(2),)),
    ),
    Policy("the end: the Job stays for its time", status=DONE, job=ENDED, seconds=604_790, expected=Plan(look_again_in=10)),
    Policy("and goes when it is over", status=DONE, job=ENDED, seconds=604_800, expected=DELETE),
    Policy("also long after", status=DONE, job=ENDED, seconds=10**9, expected=DELETE),
    Policy("at once where nothing was to be kept", {"ttlSecondsAfterFinished": 0}, DONE, ENDED, expected=DELETE),
    Policy("not again while it goes", status=DONE, job=merge(ENDED, GOING), seconds=10**9),
    Policy("nothing is left to do without children", status=DONE, seconds=10**9),
    Policy("suspending what has ended does nothing", SUSPENDED, DONE, ENDED, seconds=604_790, expected=Plan(look_again_in=10)),
]


@pytest.mark.parametrize("policy", POLICIES, ids=str)
def test_policy(policy: Policy) -> None:
    metadata: dict[str, Any] = {"deletionTimestamp": format_time(NOW)} if policy.deleting else {}
    body = build_finetunejob(policy.spec, policy.status, **metadata)
    observation = observe(body, jobs=[policy.job] if policy.job else [], pods=policy.pods)
    assert compute_plan(observation, at(policy.seconds)) == policy.expected


def test_children_are_kept_for_ever_where_that_is_asked_for() -> None:
    body = build_finetunejob(status=DONE)
    body["spec"]["ttlSecondsAfterFinished"] = None
    assert compute_plan(observe(body, jobs=[ENDED]), at(10**9)) == Plan()


def test_jobs_of_all_attempts_go_at_the_end() -> None:
    jobs = [build_stored_job(attempt, uid=f"job-{attempt}", conditions=[COMPLETE]) for attempt in (0, 1)]
    plan = compute_plan(observe(build_finetunejob(status=DONE), jobs=jobs), at(10**9))
    assert {action.uid for action in plan.actions if isinstance(action, DeleteJob)} == {"job-0", "job-1"}


SPEC_PATCHES = st.fixed_dictionaries(
    {
        "suspend": st.booleans(),
        "activeDeadlineSeconds": st.none() | st.integers(1, 100),
        "ttlSecondsAfterFinished": st.none() | st.integers(0, 100),
        "scheduling": st.sampled_from([{}, {"queueName": "team-a"}]),
    }
)
STATUSES = st.sampled_from([None, DONE, {**DONE, "phase": "Failed"}, {"phase": "Running", "attempt": 0}, CLAIMED])


def _as_attempts(jobs: list[Manifest]) -> list[Manifest]:
    """Return ``jobs`` as attempts of one run: another attempt is made only where the result of a completed one was lost."""
    older = [merge(job, {"status": {"conditions": [COMPLETE]}}) for job in jobs[:-1]]
    return [merge(job, {"metadata": {"uid": f"job-{name_of(job)}"}}) for job in (*older, *jobs[-1:])]


JOBS_SEEN = st.lists(
    st.builds(
        build_stored_job,
        st.integers(0, 3),
        conditions=st.sampled_from([[], [COMPLETE], [FAILED]]),
        suspend=st.booleans(),
        activeDeadlineSeconds=st.none() | st.integers(1, 100),
    ),
    max_size=2,
    unique_by=name_of,
).map(lambda jobs: _as_attempts(sorted(jobs, key=name_of)))


def _apply(plan: Plan, jobs: list[Manifest], spec: Manifest) -> list[Manifest]:
    """Return the Jobs after the plan, as the API server and the garbage collector would leave them."""
    world = {uid_of(job): job for job in jobs}
    for action in plan.actions:
        match action:
            case CreateJob(attempt):
                created = build_stored_job(attempt, uid=f"made-{attempt}", spec=build_spec(spec))
                assert name_of(created) not in {name_of(job) for job in world.values()}, "the name of a Job that exists"
                world[uid_of(created)] = created
            case PatchJob(_, uid, patch):
                world[uid] = merge(world[uid], patch)
            case DeleteJob(_, uid):
                del world[uid]
    return list(world.values())


@given(spec=SPEC_PATCHES, status=STATUSES, jobs=JOBS_SEEN, seconds=st.integers(0, 200))
def test_a_plan_that_was_carried_out_leaves_nothing_to_do(
    spec: Manifest, status: Manifest | None, jobs: list[Manifest], seconds: int
) -> None:
    body = build_finetunejob(spec, status)
    plan = compute_plan(observe(body, jobs=jobs), at(seconds))
    again = compute_plan(observe(body, jobs=_apply(plan, jobs, spec)), at(seconds))
    assert again.actions == ()


@given(spec=SPEC_PATCHES, jobs=JOBS_SEEN, seconds=st.integers(0, 200), phase=st.sampled_from(["Succeeded", "Failed"]))
def test_a_run_that_has_ended_never_gets_a_job(spec: Manifest, jobs: list[Manifest], seconds: int, phase: str) -> None:
    plan = compute_plan(observe(build_finetunejob(spec, {**DONE, "phase": phase}), jobs=jobs), at(seconds))
    assert all(isinstance(action, DeleteJob) for action in plan.actions)


@given(spec=SPEC_PATCHES, status=STATUSES, jobs=JOBS_SEEN)
def test_a_run_that_is_being_deleted_is_left_alone(spec: Manifest, status: Manifest | None, jobs: list[Manifest]) -> None:
    body = build_finetunejob(spec, status, deletionTimestamp=format_time(NOW))
    assert compute_plan(observe(body, jobs=jobs), NOW) == Plan()
