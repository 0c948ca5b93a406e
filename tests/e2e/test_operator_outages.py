"""The operator dies, or is away, at the worst moments; the runs do not care, and status catches up."""

import time

import pytest

from tests.support.runs import RUN_SECONDS, START_SECONDS, Runs
from tests.support.timeline import FINETUNEJOBS, JOBS, PODS, Object, condition_of, phase_of, step_of
from tests.support.tiny_run import ROWS

pytestmark = pytest.mark.node

STEPS = 60
ENDLESS = 100_000
"""Steps of a run that is still training when the test ends."""


def test_an_operator_killed_in_mid_run_is_followed_by_one_that_knows_all(runs: Runs, namespace: str) -> None:
    run = runs.apply(namespace, "bereft", {"training": {"maxSteps": ENDLESS}})
    before = run.wait_step(1).body["status"]
    killed = runs.release.list_pods()
    runs.release.kill()
    assert set(runs.release.list_pods()).isdisjoint(killed)
    since = time.monotonic()
    after = run.wait_step(step_of(run.get()) + 1, since).body["status"]  # the trainer's reports find the next operator
    for name in ("attempt", "jobName", "pod", "restarts", "startTime", "observedGeneration", "conditions"):
        assert after[name] == before[name], name
    assert (len(run.pods()), len(run.jobs())) == (1, 1)
    run.delete()


def test_a_run_that_ends_while_the_operator_is_away_has_succeeded_when_it_is_back(runs: Runs, namespace: str) -> None:
    run = runs.apply(namespace, "orphan", {"training": {"maxSteps": STEPS}})
    running = run.wait_reason("Training", START_SECONDS).body
    runs.release.scale(0)
    try:
        (job,) = run.jobs()
        runs.timeline.wait_for(
            JOBS, namespace, job["metadata"]["name"], is_complete, START_SECONDS + RUN_SECONDS, "the Job completes by itself"
        )
        assert phase_of(run.get()) == "Running"  # nobody is there to say otherwise
    finally:
        runs.release.scale(1)
    ended = run.wait_success(30)
    assert ended["status"]["progress"]["step"] == STEPS
    assert ended["status"]["dataset"]["examples"] == ROWS
    assert ended["status"]["metrics"]["loss"] > 0
    assert (ended["status"]["restarts"], len(run.pods()), len(run.jobs())) == (0, 1, 1)
    assert ended["status"]["pod"]["uid"] == running["status"]["pod"]["uid"]
    assert [at for at, _ in run.read_losses(ended)] == list(range(1, STEPS + 1))


def test_a_run_deleted_while_the_operator_is_away_leaves_nothing(runs: Runs, namespace: str) -> None:
    run = runs.apply(namespace, "gone", {"training": {"maxSteps": ENDLESS}})
    run.wait_reason("Training", START_SECONDS)
    runs.release.scale(0)
    try:
        run.delete()

        def left() -> list[str]:
            kinds = (FINETUNEJOBS, JOBS, PODS)
            return [f"{kind}/{each['metadata']['name']}" for kind in kinds for each in runs.timeline.alive(kind, namespace)]

        runs.timeline.wait(lambda: not left(), 90, "Job and pods are gone", left)
    finally:
        runs.release.scale(1)
    # Nor does the operator bring anything back.
    runs.release.await_ready()
    probe = runs.apply(namespace, "probe", {"resources": {"gpus": 1}})
    probe.wait_reason("NoFittingNode", 30)
    names = run.kubectl("get", "finetunejobs,jobs,pods", "--output=name").split()
    assert f"finetunejob.finetune.dev/{probe.name}" in names
    assert [name for name in names if f"/{run.name}" in name] == []


def is_complete(job: Object) -> bool:
    """Tell whether a Job is complete."""
    return condition_of(job, "Complete").get("status") == "True"
