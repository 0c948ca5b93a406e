"""A run of several pods is one thing: it is as far as its last pod, fails once, is interrupted once, and begins anew as a whole."""

from typing import Any

import pytest

from finetune_api.exit_codes import ExitCode
from finetune_api.names import INDEX_LABEL
from finetune_api.status import FineTuneJobStatus, Phase
from finetune_operator.objects import LOST_SECONDS, name_of, uid_of
from finetune_operator.plan.actions import CreateJob, DeleteJob, Plan, compute_plan
from finetune_operator.status.accounting import Account, compute_account
from finetune_operator.status.compute import compute_status
from finetune_operator.status.diagnosis import compute_diagnosis
from tests.support.manifests import Manifest
from tests.support.world import (
    at,
    build_finetunejob,
    build_pod,
    build_spec,
    build_stored_job,
    observe,
    running,
    terminated,
)

SPEC: Manifest = {"resources": {"gpus": 1, "nodes": 2}}
JOB = build_stored_job(spec=build_spec(SPEC), suspend=False)
LOST, INTERRUPTED = int(ExitCode.PEER_LOST), int(ExitCode.INTERRUPTED)


def pod(
    index: int, start: float, end: float | None = None, code: int = 0, *, name: str = "", disrupted: bool = False, **more: Any
) -> Manifest:
    """A pod of the group that ran from ``start`` to ``end``."""
    name = name or f"pod-{index}-{start:g}"
    if end is None:
        body = build_pod(name, phase="Running", state=running(at(start)), created=at(start), **more)
    else:
        conditions = [{"type": "DisruptionTarget", "status": "True"}] if disrupted else []
        state = terminated(code, since=at(start), until=at(end))
        phase = "Failed" if code else "Succeeded"
        body = build_pod(name, phase=phase, state=state, created=at(start), conditions=conditions, **more)
    body["metadata"]["labels"][INDEX_LABEL] = str(index)
    return body


def account(*pods: Manifest, now: float = 0, previous: Account | None = None) -> Account:
    status = FineTuneJobStatus()
    if previous is not None:
        status = status.model_copy(update={field: getattr(previous, field) for field in Account.__slots__})
    return compute_account(status, sorted(pods, key=lambda body: str(body["metadata"]["creationTimestamp"])), 2, now=at(now), stopped=False)


@pytest.mark.parametrize(
    ("first", "second", "failures", "interruptions"),
    [
        pytest.param(LOST, 137, 1, 0, id="the second is killed"),
        pytest.param(137, LOST, 1, 0, id="the first is killed"),
        pytest.param(INTERRUPTED, INTERRUPTED, 0, 1, id="both were asked to stop"),
        pytest.param(LOST, INTERRUPTED, 0, 1, id="one was asked to stop before there was anything to save"),
        pytest.param(LOST, 64, 0, 0, id="what no retry mends is neither"),
        pytest.param(0, 0, 0, 0, id="both did their part"),
    ],
)
def test_what_ends_a_group_is_counted_once(first: int, second: int, failures: int, interruptions: int) -> None:
    begun = account(pod(0, 0), pod(1, 0))
    ended = account(pod(0, 0, 10, first), pod(1, 0, 11, second), previous=begun)
    assert (ended.failures, ended.interruptions) == (failures, interruptions)
    assert (ended.restarts, ended.gpu_seconds) == (0, 20)
    assert account(pod(0, 0, 10, first), pod(1, 0, 11, second), previous=ended) == ended


def test_a_group_has_not_ended_while_one_of_it_runs() -> None:
    """How the other one ends may be why the first one did."""
    begun = account(pod(0, 0), pod(1, 0))
    half = account(pod(0, 0, 10, LOST), pod(1, 0), previous=begun)
    assert half == begun
    assert account(pod(0, 0, 10, LOST), pod(1, 0, 9, 137), previous=half).failures == 1


def test_a_group_whose_first_pod_was_deleted_ended_with_the_last_of_the_others() -> None:
    """A preempted pod is gone as soon as it has ended; another one may take longer to notice."""
    begun = account(pod(0, 0), pod(1, 0))
    assert account(pod(1, 0), now=15, previous=begun) == begun, "it still runs"
    ended = account(pod(1, 0, 20, LOST), now=500, previous=begun)
    assert (ended.interruptions, ended.failures, ended.gpu_seconds, ended.running_seconds) == (1, 0, 40, 20)
    waiting = pod(0, 400)
    waiting |= build_pod(name_of(waiting), node=None) | {"metadata": waiting["metadata"]}
    assert account(waiting, pod(1, 0, 20, LOST), now=500, previous=begun) == ended, "the next first pod has no node yet"


def test_a_group_that_its_queue_took_away_is_accounted_for_at_once() -> None:
    """All of its pods are gone before it was seen that all had ended: its time does not go on while it waits."""
    job = build_stored_job(spec=build_spec({**SPEC, "scheduling": {"queueName": "team"}}), suspend=True)
    body = build_finetunejob({**SPEC, "scheduling": {"queueName": "team"}})
    begun = compute_status(observe(body, jobs=[job], pods=[pod(0, 0), pod(1, 0)]), at(1))
    body["status"] = begun.model_dump(mode="json", by_alias=True, exclude_none=True)
    half = compute_status(observe(body, jobs=[job], pods=[pod(1, 0)]), at(10))
    assert (half.interruptions, half.gpu_seconds) == (0, 0)
    body["status"] = half.model_dump(mode="json", by_alias=True, exclude_none=True)
    gone = compute_status(observe(body, jobs=[job], pods=[]), at(12))
    assert (gone.phase, gone.interruptions, gone.gpu_seconds) == (Phase.QUEUED, 1, 24)


def test_each_restart_of_a_group_is_one_restart() -> None:
    first = account(pod(0, 0), pod(1, 0))
    ended = account(pod(0, 0, 10, LOST), pod(1, 0, 9, 137), previous=first)
    again = account(pod(0, 0, 10, LOST), pod(1, 0, 9, 137), pod(0, 20), pod(1, 20), previous=ended)
    assert (again.restarts, again.failures) == (1, 1)
    done = account(pod(0, 0, 10, LOST), pod(1, 0, 9, 137), pod(0, 20, 40, INTERRUPTED), pod(1, 20, 39, INTERRUPTED), previous=again)
    assert (done.restarts, done.failures, done.interruptions, done.gpu_seconds) == (1, 1, 1, 60)


def test_a_group_is_as_far_as_its_last_pod() -> None:
    waiting = pod(1, 0)
    waiting |= build_pod(name_of(waiting), node=None) | {"metadata": waiting["metadata"]}
    observation = observe(build_finetunejob(SPEC), jobs=[JOB], pods=[pod(0, 0), waiting])
    assert compute_diagnosis(observation).phase is Phase.PENDING
    observation = observe(build_finetunejob(SPEC), jobs=[JOB], pods=[pod(0, 0), pod(1, 0)])
    assert compute_diagnosis(observation).phase is Phase.RUNNING
    assert compute_status(observation, at(1)).gpus == 2


def decide(*pods: Manifest, now: float, spec: Manifest | None = None) -> Plan:
    """Return the plan after the status of the same moment was written."""
    body = build_finetunejob({**SPEC, **(spec or {})})
    status = FineTuneJobStatus()
    for _ in range(2):  # the pods are seen to run, then as they are
        body["status"] = status.model_dump(mode="json", by_alias=True, exclude_none=True)
        status = compute_status(observe(body, jobs=[JOB], pods=pods), at(now))
    body["status"] = status.model_dump(mode="json", by_alias=True, exclude_none=True)
    return compute_plan(observe(body, jobs=[JOB], pods=pods), at(now))


DELETE = DeleteJob(name_of(JOB), uid_of(JOB))


def test_an_interrupted_group_goes_on_in_a_new_job_at_once() -> None:
    """The Job's own wait doubles with each pod of the group."""
    assert decide(pod(0, 0, 10, INTERRUPTED), pod(1, 0, 11, INTERRUPTED), now=12) == Plan((DELETE, CreateJob(1)))


def test_a_failed_group_waits_as_long_as_a_failed_pod() -> None:
    pods = pod(0, 0, 10, LOST), pod(1, 0, 9, 137)
    assert decide(*pods, now=12) == Plan(look_again_in=8)
    assert decide(*pods, now=20) == Plan((DELETE, CreateJob(1)))


def test_a_group_without_budget_is_left_to_its_end() -> None:
    job = build_stored_job(spec=build_spec({**SPEC, "backoffLimit": 0}), suspend=False)
    assert job["spec"]["backoffLimit"] == 0
    body = build_finetunejob({**SPEC, "backoffLimit": 0})
    pods = pod(0, 0, 10, LOST), pod(1, 0, 9, 137)
    status = compute_status(observe(body, jobs=[job], pods=pods), at(30))
    body["status"] = status.model_dump(mode="json", by_alias=True, exclude_none=True)
    assert compute_plan(observe(body, jobs=[job], pods=pods), at(30)) == Plan()


def test_a_pod_lost_with_its_node_ends_the_group() -> None:
    """The others are asked to stop first; what comes next has another name, since the lost pod still has its own."""
    lost = pod(1, 0, deleting=True)
    late = LOST_SECONDS + 1
    plan = decide(pod(0, 0), lost, now=late)
    assert plan.actions == (DELETE,)
    body = build_finetunejob(SPEC, {"attempt": 0, "jobName": name_of(JOB), "phase": "Running"})
    assert compute_plan(observe(body, pods=[pod(0, 0), lost]), at(late)).actions == ()
    assert compute_plan(observe(body, pods=[pod(0, 0, late, INTERRUPTED), lost]), at(late)).actions == (CreateJob(1),)
