"""The operator dies, or is away, at the worst moments; the runs do not care, and status catches up."""

import pytest

from tests.support.runs import RUN_SECONDS, START_SECONDS, Runs
from tests.support.timeline import FINETUNEJOBS, JOBS, PODS, condition_of, phase_of

pytestmark = pytest.mark.node

STEPS = 400


def test_an_operator_killed_in_mid_run_and_away_at_its_end_loses_nothing(runs: Runs, namespace: str) -> None:
    run = runs.apply(namespace, "orphan", {"training": {"maxSteps": STEPS}})
    before = run.wait_step(1)
    killed = runs.release.list_pods()
    runs.release.kill()
    assert set(runs.release.list_pods()).isdisjoint(killed)
    # The trainer's reports find the next operator.
    after = run.wait_step(before.body["status"]["progress"]["step"] + 1, since=before.at)
    runs.release.scale(0)
    (job,) = run.jobs()
    name = job["metadata"]["name"]
    runs.timeline.wait_for(
        JOBS, namespace, name, lambda body: condition_of(body, "Complete").get("status") == "True", RUN_SECONDS, "completes by itself"
    )
    assert phase_of(run.get()) == "Running"  # nobody is there to say otherwise
    runs.release.scale(1)
    ended = run.wait_success(30)
    assert ended["status"]["progress"]["step"] == STEPS
    assert (ended["status"]["restarts"], len(run.pods()), len(run.jobs())) == (0, 1, 1)
    assert ended["status"]["pod"]["uid"] == after.body["status"]["pod"]["uid"]
    assert [at for at, _ in run.read_losses(ended)] == list(range(1, STEPS + 1))


def test_a_run_deleted_while_the_operator_is_away_leaves_nothing(runs: Runs, namespace: str) -> None:
    run = runs.apply(namespace, "gone", {"training": {"maxSteps": 100_000}})
    run.wait_reason("Training", START_SECONDS)
    runs.release.scale(0)
    try:
        run.kubectl("delete", "finetunejob", run.name, "--timeout=20s")

        def left() -> list[str]:
            kinds = (FINETUNEJOBS, JOBS, PODS)
            return [f"{kind}/{each['metadata']['name']}" for kind in kinds for each in runs.timeline.alive(kind, namespace)]

        runs.timeline.wait(lambda: not left(), 90, "Job and pods are gone", left)
    finally:
        runs.release.scale(1)
    # Nor does the operator bring anything back.
    runs.release.await_ready()
    probe = runs.apply(namespace, "probe", {"resources": {"gpus": 1}})
    probe.wait_reason("Unschedulable", 30)
    names = run.kubectl("get", "finetunejobs,jobs,pods", "--output=name").split()
    assert f"finetunejob.finetune.dev/{probe.name}" in names
    assert [name for name in names if f"/{run.name}" in name] == []
