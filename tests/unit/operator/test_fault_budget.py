"""What uses up `backoffLimit` and what doesn't, what is tried again, and in which Job: every case."""

from dataclasses import dataclass

import pytest

from finetune_api.base import format_time
from finetune_api.progress import Metrics
from finetune_operator.desired.grace import MAX_SECONDS, compute_grace_seconds
from finetune_operator.desired.job import build_job
from finetune_operator.objects import LOST_SECONDS, name_of
from finetune_operator.plan.actions import CreateJob, DeleteJob, Plan, compute_plan
from finetune_operator.status.compute import compute_status
from tests.support.manifests import Manifest
from tests.support.world import (
    JOB_UID,
    NOW,
    REF,
    TRAINER,
    at,
    build_ended_pod,
    build_finetunejob,
    build_pod,
    build_spec,
    build_stored_job,
    condition,
    observe,
    running,
)

JOB = build_stored_job(suspend=False)
DISRUPTED = [condition("DisruptionTarget", "PreemptionByScheduler", "preempting")]
DRAINED = [condition("DisruptionTarget", "EvictionByEvictionAPI", "Eviction API: evicting")]
TAINTED = [condition("DisruptionTarget", "DeletionByTaintManager", "Taint manager: deleting due to NoExecute taint")]
PRESSED = [condition("DisruptionTarget", "TerminationByKubelet", "The node was low on resource: memory")]
COLLECTED = [condition("DisruptionTarget", "DeletionByPodGC", "PodGC: node no longer exists")]


@dataclass(frozen=True)
class Case:
    """How a pod ended, and what that uses up."""

    name: str
    pod: Manifest
    failures: int
    interruptions: int
    ends: bool = False
    """No retry can mend it: the Job's failure policy ends the run."""

    def __str__(self) -> str:
        """Return the name, for pytest."""
        return self.name


CASES = [
    Case("interrupted after a checkpoint", build_ended_pod(75), 0, 1),
    Case("preempted, and stopped in time", build_ended_pod(75, conditions=DISRUPTED), 0, 1),
    Case("preempted, and killed at the end of its grace period", build_ended_pod(137, conditions=DISRUPTED), 0, 1),
    Case("drained", build_ended_pod(143, conditions=DRAINED), 0, 1),
    Case("evicted by a kubelet short of memory", build_ended_pod(137, conditions=PRESSED), 0, 1),
    Case("deleted with the taint of a lost node", build_ended_pod(137, conditions=TAINTED), 0, 1),
    Case("collected after its node", build_ended_pod(137, conditions=COLLECTED), 0, 1),
    Case("crashed", build_ended_pod(1), 1, 0),
    Case("killed by a signal of unknown cause", build_ended_pod(137), 1, 0),
    Case("killed for memory", build_ended_pod(137, reason="OOMKilled"), 1, 0),
    Case("the store failed", build_ended_pod(74), 1, 0),
    Case("a configuration that can't work", build_ended_pod(64), 0, 0, ends=True),
    Case("data that can't be used", build_ended_pod(65), 0, 0, ends=True),
    Case("a source that is not there", build_ended_pod(66), 0, 0, ends=True),
    Case("no GPU", build_ended_pod(69), 0, 0, ends=True),
    Case("out of GPU memory", build_ended_pod(71), 0, 0, ends=True),
    Case("diverged", build_ended_pod(72), 0, 0, ends=True),
    Case("a configuration that can't work, in a pod that is being drained", build_ended_pod(64, conditions=DRAINED), 0, 0, ends=True),
]


def _fails_job(pod: Manifest) -> tuple[bool, bool]:
    """Apply the Job's own failure policy as its controller does: whether it fails the Job, and whether it ignores the pod."""
    rules = build_job(build_spec(), REF, 0, trainer=TRAINER, reporting=None)["spec"]["podFailurePolicy"]["rules"]
    code = pod["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"]
    conditions = {(each["type"], each["status"]) for each in pod["status"]["conditions"]}
    for rule in rules:
        by_code = code in rule.get("onExitCodes", {}).get("values", ())
        by_condition = any((each["type"], each["status"]) in conditions for each in rule.get("onPodConditions", ()))
        if by_code or by_condition:
            return rule["action"] == "FailJob", rule["action"] == "Ignore"
    return False, False


@pytest.mark.parametrize("case", CASES, ids=str)
def test_what_it_uses_up(case: Case) -> None:
    runs = build_pod("support-bot-pod", phase="Running", state=running())
    before = compute_status(observe(build_finetunejob(), jobs=[JOB], pods=[runs]), NOW)
    body = build_finetunejob(status=before.model_dump(mode="json", exclude_none=True))
    # (As if the Job had not noticed: a run that is about to end keeps its status until the Job says so.)
    ended = [condition("Failed", "PodFailurePolicy")] if case.ends else []
    after = compute_status(observe(body, jobs=[build_stored_job(suspend=False, conditions=ended)], pods=[case.pod]), at(60))
    assert (after.failures, after.interruptions) == (case.failures, case.interruptions)
    assert after.phase is not None
    assert after.phase.is_terminal == case.ends


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_job_s_own_policy_agrees(case: Case) -> None:
    assert _fails_job(case.pod) == (case.ends, case.interruptions == 1)


def _interrupted(times: int, **status: object) -> Manifest:
    return {
        "phase": "Starting",
        "attempt": 0,
        "attemptInterruptions": times,
        "interruptions": times,
        "failures": 1,
        "pod": {"name": "p", "uid": "u", "endTime": format_time(NOW)},
        **status,
    }


RENEWED = Plan((DeleteJob(name_of(JOB), JOB_UID), CreateJob(1)))
SLOW: Manifest = {"metrics": {"stepSeconds": 20, "checkpointSeconds": 400}}


def test_the_first_interruption_is_left_to_the_job() -> None:
    assert compute_plan(observe(build_finetunejob(status=_interrupted(1)), jobs=[JOB]), NOW) == Plan()


def test_after_the_second_the_run_goes_on_in_a_new_job() -> None:
    """The Job's controller would wait 20 s now, 40 s the next time, and 10 minutes in the end."""
    assert compute_plan(observe(build_finetunejob(status=_interrupted(2)), jobs=[JOB]), NOW) == RENEWED


def test_not_while_a_pod_is_alive() -> None:
    pod = build_pod(phase="Running", state=running())
    assert compute_plan(observe(build_finetunejob(status=_interrupted(2)), jobs=[JOB], pods=[pod]), NOW) == Plan()


def test_not_while_suspended_but_on_resume() -> None:
    paused = build_stored_job(suspend=True)
    suspended = build_finetunejob({"suspend": True}, _interrupted(2))
    assert compute_plan(observe(suspended, jobs=[paused]), NOW) == Plan()
    assert compute_plan(observe(build_finetunejob(status=_interrupted(2)), jobs=[paused]), NOW) == RENEWED


def test_the_new_job_has_what_is_left_of_the_budget() -> None:
    job = build_job(build_spec({"backoffLimit": 3}), REF, 1, trainer=TRAINER, reporting=None, failures=2)
    assert job["spec"]["backoffLimit"] == 1
    assert build_job(build_spec({"backoffLimit": 0}), REF, 1, trainer=TRAINER, reporting=None, failures=2)["spec"]["backoffLimit"] == 0


def test_a_job_with_too_short_a_grace_period_is_replaced_at_the_first_interruption() -> None:
    assert compute_plan(observe(build_finetunejob(status=_interrupted(1, **SLOW)), jobs=[JOB]), NOW) == RENEWED


def test_a_node_that_is_lost_for_good_is_got_over() -> None:
    """Its pod stays terminating for ever: the kubelet that should end it is gone."""
    pod = build_pod(phase="Running", state=running(), deleting=True, created=NOW)
    body = build_finetunejob(status={"phase": "Running", "attempt": 0})
    waits = compute_plan(observe(body, jobs=[JOB], pods=[pod]), at(LOST_SECONDS - 20))
    assert waits == Plan(look_again_in=20)
    assert compute_plan(observe(body, jobs=[JOB], pods=[pod]), at(LOST_SECONDS)) == RENEWED


def test_the_new_job_is_left_alone_while_the_lost_pod_is_still_there() -> None:
    lost = build_pod("lost", phase="Running", state=running(), deleting=True, created=NOW, controller="gone")
    body = build_finetunejob(status={"phase": "Running", "attempt": 1})
    job = build_stored_job(1, suspend=False)
    assert compute_plan(observe(body, jobs=[job], pods=[lost]), at(LOST_SECONDS)).actions == ()


def test_a_lost_pod_does_not_keep_the_next_job_waiting() -> None:
    pod = build_pod(phase="Running", state=running(), deleting=True, created=NOW, controller="gone")
    body = build_finetunejob(status={"phase": "Running", "attempt": 1})
    assert compute_plan(observe(body, pods=[pod]), at(LOST_SECONDS - 20)) == Plan(look_again_in=20)
    assert compute_plan(observe(body, pods=[pod]), at(LOST_SECONDS)) == Plan((CreateJob(1),))


def test_a_lost_pod_s_time_ends_when_it_should_have_gone() -> None:
    pod = build_pod(phase="Running", state=running(), deleting=True, created=at(100))
    before = compute_status(observe(build_finetunejob(), jobs=[JOB], pods=[build_pod(phase="Running", state=running())]), NOW)
    body = build_finetunejob(status=before.model_dump(mode="json", exclude_none=True))
    after = compute_status(observe(body, jobs=[JOB], pods=[pod]), at(100 + LOST_SECONDS))
    assert (after.gpu_seconds, after.interruptions, after.failures) == (100, 1, 0)


@pytest.mark.parametrize(
    ("metrics", "floor", "seconds"),
    [
        (None, None, 300),
        (Metrics(), None, 300),
        (Metrics(checkpoint_seconds=10), None, 300),
        (Metrics(step_seconds=35, checkpoint_seconds=200), None, 500),
        (Metrics(step_seconds=35, checkpoint_seconds=200), 900, 900),
        (Metrics(checkpoint_seconds=10), 60, 60),
        (Metrics(checkpoint_seconds=1e9), None, MAX_SECONDS),
        (Metrics(checkpoint_seconds=1e9), 7200, 7200),
    ],
)
def test_the_grace_period_follows_from_what_was_measured(metrics: Metrics | None, floor: int | None, seconds: int) -> None:
    spec = build_spec({"scheduling": {"terminationGracePeriodSeconds": floor}} if floor else {})
    assert compute_grace_seconds(spec, metrics, 300) == seconds
