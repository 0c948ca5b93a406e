"""A GPU that a node advertises and does not have: an error that says so; or, where the chart allows it, training on the CPU."""

import time
from collections.abc import Iterator

import pytest

from finetune_api.exit_codes import ExitCode
from tests.support.runs import START_SECONDS, Runs
from tests.support.timeline import PODS, condition_of, phase_of, step_of, trainer_state_of

pytestmark = pytest.mark.node

SECONDS = 10.0
"""Longest time from the pod's end to the reason."""
ENDLESS = 100_000
"""Steps of a run that is still training when the test ends."""


@pytest.fixture(scope="module", autouse=True)
def advertised(runs: Runs) -> Iterator[None]:
    """One GPU that the node only claims to have."""
    runs.cluster.advertise_gpus(1)
    yield
    runs.cluster.advertise_gpus(0)


@pytest.fixture(scope="module")
def upgraded(runs: Runs) -> Iterator[None]:
    """The release after an upgrade of its values: its operator lets trainers do without the GPU."""
    runs.release.install(development__simulatedGpus="true")
    yield
    runs.release.install()


def test_a_gpu_without_cuda_fails_the_run_at_once_and_once(runs: Runs, namespace: str) -> None:
    run = runs.apply(namespace, "no-cuda", {"resources": {"gpus": 1}, "backoffLimit": 3})
    said = run.wait_reason("AcceleratorMissing", START_SECONDS)
    (pod,) = run.pods()
    ended = runs.timeline.wait_for(PODS, namespace, pod, lambda body: "terminated" in trainer_state_of(body), 10, "the pod has ended")
    runs.notes.append(f"missing CUDA: said {said.at - ended.at:.2f} s after the pod's end")
    assert said.at - ended.at <= SECONDS
    assert trainer_state_of(ended.body)["terminated"]["exitCode"] == ExitCode.ACCELERATOR_MISSING
    assert phase_of(said.body) == "Failed"
    message = condition_of(said.body, "Succeeded")["message"]
    assert "CUDA" in message
    assert "resources.gpus" in message
    runs.timeline.wait(lambda: condition_of(run.jobs()[0], "Failed").get("status") == "True", 20, "the Job has failed")
    (job,) = run.jobs()
    assert (job["spec"]["backoffLimit"], job["status"]["failed"]) == (3, 1)
    assert run.pods() == [pod]


def test_an_upgrade_of_the_chart_restarts_no_run(runs: Runs, namespace: str, request: pytest.FixtureRequest) -> None:
    run = runs.apply(namespace, "before", {"training": {"maxSteps": ENDLESS}})
    run.wait_step(1)
    (pod,) = run.pods()
    former = set(runs.release.list_pods())
    request.getfixturevalue("upgraded")
    runs.timeline.wait(lambda: former.isdisjoint(runs.release.list_pods()), 60, "the former operator's pod is gone")
    since = time.monotonic()
    after = run.wait_step(step_of(run.get()) + 1, since).body  # the trainer reports to the new operator
    assert (after["status"]["restarts"], after["status"]["pod"]["name"]) == (0, pod)
    assert run.pods() == [pod]
    run.delete()


@pytest.mark.usefixtures("upgraded")
def test_a_simulated_gpu_trains_on_the_cpu_and_status_says_so(runs: Runs, namespace: str) -> None:
    run = runs.apply(namespace, "simulated", {"resources": {"gpus": 1}})
    ended = run.wait_success()
    messages = {condition_of(body, "Running").get("message", "") for body in run.history() if phase_of(body) == "Running"}
    assert any("trains on the CPU: this cluster's GPUs are simulated" in message for message in messages)
    assert "simulated" in condition_of(ended, "Accepted")["message"]
    assert ended["status"]["gpus"] == 1
