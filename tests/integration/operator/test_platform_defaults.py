"""What the platform gives to runs of a namespace, on a real API server: in the Job, in status, and nowhere else."""

import json
from collections.abc import Iterator

import pytest

from finetune_api.names import ENV_CONFIG, MODEL_CACHE_ROOT
from finetune_devcluster import Cluster
from tests.integration.operator.conftest import DEFAULTS, WITH_DEFAULTS, wait_for_account
from tests.support.fake_node import FakeNode
from tests.support.live_run import LiveRun, wait_until
from tests.support.manifests import Manifest
from tests.support.operator_process import OperatorProcess
from tests.support.world import build_summary

pytestmark = pytest.mark.cluster


@pytest.fixture
def run(control_plane: Cluster, node: FakeNode, operator: OperatorProcess) -> Iterator[LiveRun]:  # noqa: ARG001
    control_plane.kubectl("create", "namespace", WITH_DEFAULTS)
    wait_for_account(control_plane, WITH_DEFAULTS)
    _make_claim(control_plane, str(DEFAULTS["modelCache"]))
    yield LiveRun(control_plane, node, WITH_DEFAULTS, "run")
    control_plane.kubectl("delete", "namespace", WITH_DEFAULTS, "--wait=false")


def _make_claim(cluster: Cluster, name: str) -> None:
    """Make a volume and the claim that is bound to it: the scheduler waits for both."""
    common = {"accessModes": ["ReadWriteMany"], "storageClassName": ""}
    spec = {
        **common,
        "capacity": {"storage": "1Gi"},
        "hostPath": {"path": "/nowhere"},
        "claimRef": {"namespace": WITH_DEFAULTS, "name": name},
    }
    claim = {**common, "volumeName": name, "resources": {"requests": {"storage": "1Gi"}}}
    cluster.client.request("POST", "/api/v1/persistentvolumes", _object("PersistentVolume", name, spec))
    path = f"/api/v1/namespaces/{WITH_DEFAULTS}/persistentvolumeclaims"
    cluster.client.request("POST", path, _object("PersistentVolumeClaim", name, claim))
    wait_until(lambda: cluster.client.request("GET", f"{path}/{name}")["status"].get("phase") == "Bound", "the claim is bound")


def _object(kind: str, name: str, spec: Manifest) -> Manifest:
    return {"apiVersion": "v1", "kind": kind, "metadata": {"name": name}, "spec": spec}


def test_a_run_gets_what_it_does_not_say_and_status_says_so(run: LiveRun) -> None:
    run.apply({"pod": {"env": [{"name": "HTTPS_PROXY", "value": ""}]}})
    job = run.wait_job()
    pod = job["spec"]["template"]["spec"]
    container = pod["containers"][0]
    assert container["image"] == DEFAULTS["trainerImage"]
    assert pod["nodeSelector"] == DEFAULTS["nodeSelector"]
    assert "dedicated" in [each.get("key") for each in pod["tolerations"]]
    assert pod["imagePullSecrets"] == DEFAULTS["imagePullSecrets"]
    environment = {each["name"]: each.get("value", "") for each in container["env"]}
    assert environment["HTTPS_PROXY"] == "", "the run's own goes before"
    config = json.loads(environment[ENV_CONFIG].replace("$$", "$"))
    assert config["output"]["endpointUrl"] == "https://minio.example.com"
    assert config["tracking"][0]["url"] == "https://mlflow.example.com"
    (filler,) = pod["initContainers"]
    mounts = {
        name: {each["mountPath"]: each.get("readOnly", False) for each in one["volumeMounts"]}
        for name, one in (("filler", filler), ("trainer", container))
    }
    assert mounts["filler"][MODEL_CACHE_ROOT] is False
    assert mounts["trainer"][MODEL_CACHE_ROOT] is True
    assert config["modelCache"] == MODEL_CACHE_ROOT
    assert "team-s3" in [each["secretRef"]["name"] for each in container["envFrom"]]

    recorded = wait_until(lambda: run.status.get("defaults"), "what it was given is in status", explain=run.explain)
    assert recorded["trainerImage"] == DEFAULTS["trainerImage"]
    assert recorded["credentials"] == DEFAULTS["credentials"]
    assert "nodeSelector" not in run.get()["spec"].get("pod", {}) or run.get()["spec"]["pod"]["nodeSelector"] == {}

    run.wait_pod()
    run.end_pod(0, build_summary())
    run.wait_phase("Succeeded")
    assert run.status["defaults"] == recorded
