"""GPUs that a node advertises and does not have: an error that says so, or training on the CPU where the chart allows it."""

from collections.abc import Iterator

import pytest

from finetune_api.exit_codes import ExitCode
from tests.support.runs import START_SECONDS, Runs
from tests.support.timeline import PODS, condition_of, phase_of, trainer_state_of

pytestmark = pytest.mark.node

SECONDS = 10.0
"""Longest time from the pod's end to the reason."""


@pytest.fixture(scope="module", autouse=True)
def advertised(runs: Runs) -> Iterator[None]:
    """Two GPUs that the node only claims to have."""
    runs.cluster.advertise_gpus(2)
    yield
    runs.cluster.advertise_gpus(0)


@pytest.fixture
def original_values(runs: Runs) -> Iterator[None]:
    """Put the release's values back at the end."""
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
    (job,) = run.jobs()
    runs.timeline.wait(lambda: condition_of(run.jobs()[0], "Failed").get("status") == "True", 20, "the Job has failed")
    assert run.jobs()[0]["status"]["failed"] == 1
    assert run.pods() == [pod]
    assert job["spec"]["backoffLimit"] == 3


@pytest.mark.usefixtures("original_values")
def test_simulated_gpus_train_on_the_cpu_and_an_upgrade_restarts_no_run(runs: Runs, namespace: str) -> None:
    running = runs.apply(namespace, "before", {"training": {"maxSteps": 400}})
    running.wait_step(1)
    (pod,) = running.pods()
    operator = runs.release.list_pods()
    runs.release.install(development__simulatedGpus="true")
    assert set(operator).isdisjoint(runs.release.list_pods())
    simulated = runs.apply(namespace, "simulated", {"resources": {"gpus": 1}})
    ended = simulated.wait_success()
    messages = {condition_of(body, "Running").get("message", "") for body in simulated.history() if phase_of(body) == "Running"}
    assert any("trains on the CPU: this cluster's GPUs are simulated" in message for message in messages)
    assert "simulated" in condition_of(ended, "Accepted")["message"]
    assert ended["status"]["gpus"] == 1
    upgraded = running.wait_success()
    assert running.pods() == [pod]
    assert upgraded["status"]["restarts"] == 0
    assert [step for step, _ in running.read_losses(upgraded)] == list(range(1, 401))
