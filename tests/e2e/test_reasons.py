"""What keeps a run from training is said in its condition, in words one can act on, within seconds of the cause being visible."""

import json
from collections.abc import Callable, Iterator

import pytest

from finetune_api.exit_codes import ExitCode
from tests.support.manifests import Manifest
from tests.support.release import Release
from tests.support.runs import START_SECONDS, Run, Runs
from tests.support.timeline import EVENTS, PODS, Object, Sighting, condition_of, phase_of, trainer_state_of
from tests.support.tiny_run import USELESS_DATASET

pytestmark = pytest.mark.node

SECONDS = 10.0
"""Longest time from the cause to the reason."""


@pytest.fixture(scope="module")
def troubled(runs: Runs, shared_namespace: str) -> dict[str, Run]:
    """Runs with one fault each, started together."""
    bucket = runs.cluster.object_store.bucket
    faults: dict[str, Manifest] = {
        "bad-data": {"dataset": {"uri": f"s3://{bucket}/{USELESS_DATASET}"}},
        "no-secret": {"model": {"credentialsSecret": {"name": "nowhere"}}},
        "no-gpu": {"resources": {"gpus": 1}},
        "small-memory": {"resources": {"memory": "100Mi"}},
    }
    return {name: runs.apply(shared_namespace, name, patch) for name, patch in faults.items()}


def test_a_missing_secret_is_named(runs: Runs, troubled: dict[str, Run]) -> None:
    run = troubled["no-secret"]
    said = run.wait_reason("SecretNotFound", START_SECONDS)
    cause = seen_pod(runs, run, lambda pod: trainer_state_of(pod).get("waiting", {}).get("reason") == "CreateContainerConfigError")
    check_delay(runs, "missing Secret", cause.at, said)
    condition = condition_of(said.body, "Stalled")
    assert condition["status"] == "True"
    assert "Secret nowhere does not exist" in condition["message"]


def test_a_gpu_that_no_node_has_is_said(runs: Runs, troubled: dict[str, Run]) -> None:
    run = troubled["no-gpu"]
    said = run.wait_reason("NoFittingNode", START_SECONDS)
    cause = seen_pod(runs, run, lambda pod: condition_of(pod, "PodScheduled").get("status") == "False")
    check_delay(runs, "unschedulable GPU", cause.at, said)
    admitted = condition_of(said.body, "Admitted")
    assert (admitted["status"], admitted["reason"]) == ("False", "NoFittingNode")
    assert "none has nvidia.com/gpu" in admitted["message"]
    assert phase_of(said.body) == "Pending"


def test_data_with_nothing_to_learn_fails_at_once(runs: Runs, troubled: dict[str, Run]) -> None:
    run = troubled["bad-data"]
    said = run.wait_reason("DataInvalid", START_SECONDS)
    cause = seen_pod(runs, run, lambda pod: "terminated" in trainer_state_of(pod))
    check_delay(runs, "bad dataset", cause.at, said)
    assert phase_of(said.body) == "Failed"
    assert trainer_state_of(cause.body)["terminated"]["exitCode"] == ExitCode.DATA_INVALID
    assert "neither" in condition_of(said.body, "Succeeded")["message"]  # the columns that it found
    assert len(run.pods()) == 1


def test_a_memory_limit_that_is_too_small_is_told_from_a_crash(runs: Runs, troubled: dict[str, Run]) -> None:
    run = troubled["small-memory"]
    said = run.wait_reason("OutOfMemory", START_SECONDS)
    cause = seen_pod(runs, run, lambda pod: trainer_state_of(pod).get("terminated", {}).get("reason") == "OOMKilled")
    check_delay(runs, "memory limit", cause.at, said)
    assert phase_of(said.body) == "Failed"
    assert "100Mi" in condition_of(said.body, "Succeeded")["message"]


def test_a_quota_without_room_is_said(runs: Runs, namespace: str) -> None:
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "team"}, "spec": {"hard": {"limits.memory": "1Gi"}}}
    runs.cluster.kubectl("--namespace", namespace, "apply", "--filename=-", stdin=json.dumps(quota))
    run = runs.apply(namespace, "large")

    def find_refusal() -> Sighting | None:
        names = runs.timeline.names(EVENTS, namespace)
        seen = [each for name in names for each in runs.timeline.history(EVENTS, namespace, name)]
        return next((each for each in seen if "exceeded quota" in each.body["message"]), None)

    cause = runs.timeline.wait(find_refusal, 60, "the Job controller's Event of the refusal")
    said = run.wait_reason("QuotaExceeded", SECONDS)
    check_delay(runs, "quota", cause.at, said)
    admitted = condition_of(said.body, "Admitted")
    assert (admitted["status"], admitted["reason"]) == ("False", "QuotaExceeded")
    assert "limits.memory=1Gi" in admitted["message"]
    # Room is made, and the run goes on by itself.
    runs.cluster.kubectl("--namespace", namespace, "delete", "resourcequota", "team")
    run.wait(lambda body: phase_of(body) in ("Starting", "Running"), 90, "gets its pod", said.at)


@pytest.fixture
def misconfigured(runs: Runs, images: dict[str, str], namespace: str) -> Iterator[Release]:
    """In place of the cluster's operator one that may see a single namespace, and whose trainer's image is nowhere."""
    runs.release.scale(0)
    wrong = {**images, "trainer": "localhost/finetune-trainer:nowhere"}
    release = Release(
        runs.cluster, "narrow", runs.release.namespace, wrong, {"watchNamespaces": f"{{{namespace}}}", "logging.format": "text"}
    )
    try:
        release.install(fullnameOverride="narrow")
        yield release
    finally:
        release.uninstall()
        runs.release.scale(1)


@pytest.mark.usefixtures("misconfigured")
def test_an_image_that_cannot_be_pulled_is_named(runs: Runs, namespace: str) -> None:
    run = runs.apply(namespace, "no-image")
    said = run.wait_reason("ImagePullFailed", START_SECONDS)
    cause = seen_pod(
        runs,
        run,
        lambda pod: trainer_state_of(pod).get("waiting", {}).get("reason") in ("ErrImagePull", "ImagePullBackOff", "ErrImageNeverPull"),
    )
    check_delay(runs, "unpullable image", cause.at, said)
    condition = condition_of(said.body, "Stalled")
    assert condition["status"] == "True"
    assert "localhost/finetune-trainer:nowhere" in condition["message"]


def seen_pod(runs: Runs, run: Run, holds: Callable[[Object], object]) -> Sighting:
    """Return the version in which the run's first pod showed the cause."""
    return runs.timeline.wait_for(PODS, run.namespace, run.pods()[0], holds, 10, "the pod shows the cause")


def check_delay(runs: Runs, what: str, cause: float, said: Sighting) -> None:
    runs.notes.append(f"{what}: said {said.at - cause:.2f} s after the cause was visible")
    assert said.at - cause <= SECONDS
