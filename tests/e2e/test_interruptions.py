"""A run that is stopped in the middle, by its user or by the scheduler, and ends as if it had not been."""

import json
from collections.abc import Iterator

import pytest

from finetune_api.exit_codes import ExitCode
from tests.support.runs import RUN_SECONDS, START_SECONDS, Run, Runs
from tests.support.timeline import Object, condition_of, phase_of, step_of, trainer_state_of

pytestmark = pytest.mark.node

STEPS = 600
STOP_AT = 20
"""Step from which on a run counts as in the middle."""


def test_a_suspended_run_goes_on_where_it_stopped(runs: Runs, namespace: str) -> None:
    run = runs.apply(namespace, "pause", {"training": {"maxSteps": STEPS}})
    before = run.wait_step(STOP_AT)
    total = before.body["status"]["progress"]["totalSteps"]
    run.set_suspend(suspend=True)
    suspended = run.wait_phase("Suspended", 60)
    first = run.pods()[0]
    assert exit_code_of(run, first) == ExitCode.INTERRUPTED
    assert condition_of(suspended.body, "Suspended")["status"] == "True"
    step = checkpoint_step_of(run, first)
    assert STOP_AT <= step < STEPS
    run.set_suspend(suspend=False)
    ended = run.wait_success()
    assert ended["status"]["progress"]["totalSteps"] == total == STEPS
    assert ended["status"]["restarts"] == 1
    second = run.pods()[-1]
    assert f"going on from the checkpoint of step {step} of {STEPS}" in run.log(second)
    assert [at for at, _ in run.read_losses(ended)] == list(range(1, STEPS + 1))
    assert all(step_of(body) >= step for body in after_resume(run, suspended.at))
    runs.notes.append(f"suspended at step {step} of {STEPS}; {suspended.at - before.at:.1f} s from the patch to Suspended")


@pytest.fixture
def one_gpu(runs: Runs) -> Iterator[None]:
    """A node that claims to have a GPU, and an operator that lets trainers do without."""
    runs.cluster.advertise_gpus(1)
    runs.release.install(development__simulatedGpus="true")
    yield
    runs.release.install()
    runs.cluster.advertise_gpus(0)


@pytest.fixture
def priority_classes(runs: Runs) -> Iterator[None]:
    """Priorities `e2e-low` and `e2e-high`."""
    classes = [
        {"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": f"e2e-{name}"}, "value": value}
        for name, value in (("low", 10), ("high", 1000))
    ]
    runs.cluster.kubectl("apply", "--filename=-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": classes}))
    yield
    runs.cluster.kubectl("delete", "priorityclass", "e2e-low", "e2e-high")


@pytest.mark.usefixtures("one_gpu", "priority_classes")
def test_a_preempted_run_loses_nothing_and_costs_no_retry(runs: Runs, namespace: str) -> None:
    gpu = {"resources": {"gpus": 1}}
    low = runs.apply(namespace, "low", {**gpu, "training": {"maxSteps": STEPS}, "scheduling": {"priorityClassName": "e2e-low"}})
    low.wait_step(STOP_AT)
    high = runs.apply(namespace, "high", {**gpu, "scheduling": {"priorityClassName": "e2e-high"}})
    high.wait_success()
    ended = low.wait_success(START_SECONDS + RUN_SECONDS)
    first = low.pods()[0]
    assert exit_code_of(low, first) == ExitCode.INTERRUPTED
    step = checkpoint_step_of(low, first)
    assert ended["status"]["restarts"] == 1
    assert [at for at, _ in low.read_losses(ended)] == list(range(1, STEPS + 1))
    assert f"going on from the checkpoint of step {step} of {STEPS}" in low.log(low.pods()[-1])
    # backoffLimit is 0, so one failure that counts would have ended the run.
    (job,) = low.jobs()
    assert job["spec"]["backoffLimit"] == 0
    assert job["status"].get("failed", 0) == 0
    reasons = {condition_of(body, "Succeeded").get("reason") for body in low.history()}
    assert reasons >= {"Training", "Interrupted", "Completed"}
    runs.notes.append(f"preempted at step {step} of {STEPS}")


def exit_code_of(run: Run, pod: str) -> int:
    """Return the exit code of a pod of the run, seen before the pod went."""
    codes = [trainer_state_of(each.body).get("terminated", {}).get("exitCode") for each in run.pod_history(pod)]
    return next(code for code in reversed(codes) if code is not None)


def checkpoint_step_of(run: Run, pod: str) -> int:
    """Return which step's checkpoint an interrupted trainer says that it has published."""
    words = [trainer_state_of(each.body).get("terminated", {}).get("message") for each in run.pod_history(pod)]
    summary: Object = json.loads(next(word for word in reversed(words) if word))
    assert summary["outcome"] == "interrupted"
    return int(summary["checkpoint_step"])


def after_resume(run: Run, at: float) -> list[Object]:
    """Return the versions in which the run trains again."""
    seen = [each.body for each in run._timeline.history("finetunejobs.finetune.dev", run.namespace, run.name, at)]
    return [body for body in seen if phase_of(body) == "Running"]
