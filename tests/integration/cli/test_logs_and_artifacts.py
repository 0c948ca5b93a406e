"""`finetune logs` and `finetune artifacts` against real pods (as local processes) and a real S3 server."""

import hashlib
import json
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from finetune_api.names import LABEL_JOB_UID, TRAINER_CONTAINER
from finetune_cli.main import app
from finetune_devcluster import Cluster
from tests.support.crds import install_crds
from tests.support.live_run import wait_until
from tests.support.manifests import build_minimal_manifest
from tests.support.tiny_run import connect
from tests.unit.cli.test_commands import publish

pytestmark = pytest.mark.cluster
IMAGE = "example.test/python:3"
JOBS = "/apis/finetune.dev/v1alpha1/namespaces/default/finetunejobs"
PODS = "/api/v1/namespaces/default/pods"
STATUS = "application/merge-patch+json"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    root = tmp_path_factory.mktemp("clusters")
    with Cluster.up(f"cli-{os.getpid()}", mode="process-node", state_root=root, ephemeral=True) as cluster:
        cluster.map_image("example.test/python:*", [sys.executable], [Path(sys.executable).parent])
        install_crds(cluster)
        yield cluster


def create_run(cluster: Cluster, name: str, **spec: Any) -> str:
    manifest = build_minimal_manifest(name)
    manifest["spec"] |= spec
    created: dict[str, Any] = cluster.client.request("POST", JOBS, manifest)
    return str(created["metadata"]["uid"])


def set_status(cluster: Cluster, name: str, **status: Any) -> None:
    cluster.client.request("PATCH", f"{JOBS}/{name}/status", {"status": status}, STATUS)


def start_pod(cluster: Cluster, name: str, uid: str, rank: int, code: str) -> None:
    labels = {LABEL_JOB_UID: uid, "batch.kubernetes.io/job-completion-index": str(rank)}
    container = {"name": TRAINER_CONTAINER, "image": IMAGE, "args": ["-c", code]}
    pod = {"metadata": {"name": name, "labels": labels}, "spec": {"restartPolicy": "Never", "containers": [container]}}
    cluster.client.request("POST", PODS, {"apiVersion": "v1", "kind": "Pod", **pod})


def run_command(cluster: Cluster, *words: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, [*words, "--kubeconfig", str(cluster.kubeconfig), "--namespace", "default"])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stdout, result.stderr


def has_ended(cluster: Cluster, pod: str) -> bool:
    return cluster.client.request("GET", f"{PODS}/{pod}")["status"].get("phase") in ("Succeeded", "Failed")


def test_all_ranks_are_followed_through_a_restart_until_the_run_has_ended(cluster: Cluster) -> None:
    uid = create_run(cluster, "followed", resources={"gpus": 1, "nodes": 1})
    line = json.dumps({"time": "2026-01-02T03:04:05.000+00:00", "level": "info", "message": "step 1"})
    start_pod(cluster, "first-0", uid, 0, f"print({line!r}, flush=True); import time; time.sleep(3)")
    start_pod(cluster, "first-1", uid, 1, "print('rank one', flush=True)")
    wait_until(lambda: has_ended(cluster, "first-1"), "a rank has ended")
    told: list[tuple[int, str, str]] = []
    follower = threading.Thread(target=lambda: told.append(run_command(cluster, "logs", "followed", "--follow")))
    follower.start()
    wait_until(lambda: has_ended(cluster, "first-0"), "the first pods have ended")
    start_pod(cluster, "second-0", uid, 0, "print('goes on', flush=True)")
    wait_until(lambda: has_ended(cluster, "second-0"), "the second pod has ended")
    set_status(cluster, "followed", phase="Succeeded")
    follower.join(60)
    ((code, shown, _),) = told
    assert code == 0
    assert sorted(shown.splitlines()) == sorted(["03:04:05 step 1", "rank one", "goes on"])


def test_a_log_is_shown_raw_and_from_its_end(cluster: Cluster) -> None:
    uid = create_run(cluster, "tailed")
    start_pod(cluster, "tailed-0", uid, 0, "print('one'); print('two'); print('three')")
    wait_until(lambda: has_ended(cluster, "tailed-0"), "it has ended")
    assert run_command(cluster, "logs", "tailed", "--raw", "--tail", "2")[:2] == (0, "two\nthree\n")


def test_a_run_without_pods_has_no_log(cluster: Cluster) -> None:
    create_run(cluster, "podless")
    code, shown, said = run_command(cluster, "logs", "podless")
    assert (code, shown) == (0, "")
    assert "no pod of the run has started" in said


def test_an_artifact_comes_from_s3_with_the_run_s_own_secret(cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)
    store = cluster.object_store
    (tmp_path / "made").mkdir()
    artifact = publish(tmp_path / "made", {"adapter.safetensors": b"weights" * 1000, "README.md": b"card"})
    files = connect(store)
    root = f"{store.bucket}/adapters/bot/adapter"
    for file in (tmp_path / "made").iterdir():
        files.pipe_file(f"{root}/{file.name}", file.read_bytes())
    keys = {"AWS_ACCESS_KEY_ID": store.access_key, "AWS_SECRET_ACCESS_KEY": store.secret_key, "AWS_ENDPOINT_URL": "http://s3.in-cluster"}
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s3"}, "stringData": keys}
    cluster.client.request("POST", "/api/v1/namespaces/default/secrets", secret)
    output = {"uri": f"s3://{store.bucket}/adapters/bot", "credentialsSecret": {"name": "s3"}}
    create_run(cluster, "bot", output=output)
    words = ["artifacts", "download", "bot", "--with-secret", "--endpoint-url", store.endpoint, "--to", str(tmp_path / "here")]
    code, _, said = run_command(cluster, *words)
    assert (code, "has no artifact 'adapter'" in said) == (3, True)
    listed = artifact.model_copy(update={"uri": f"s3://{root}"}).model_dump(mode="json")
    set_status(cluster, "bot", phase="Succeeded", artifacts=[listed])
    code, shown, said = run_command(cluster, *words)
    assert code == 0, said
    assert artifact.digest in shown
    assert (tmp_path / "here/adapter.safetensors").read_bytes() == b"weights" * 1000
    files.pipe_file(f"{root}/README.md", b"CARD")
    (tmp_path / "here/README.md").unlink()
    code, _, said = run_command(cluster, *words)
    assert (code, "README.md has the digest" in said) == (8, True)
    assert hashlib.sha256(b"weights" * 1000).hexdigest() in (tmp_path / "here/manifest.json").read_text()
