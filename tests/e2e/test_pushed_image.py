"""What `output.push` leaves in a registry, mounted into a pod by kubelet and containerd as an image volume.

The registry is a real one, the digest is the one that status names, and what the pod finds is held against the manifest that the run
published.
"""

import json
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from finetune_devcluster.node_config import HOST_NAME
from tests.e2e.test_run import digest
from tests.support.pod_security import UNPRIVILEGED
from tests.support.registry_server import run_registry
from tests.support.runs import START_SECONDS, Runs
from tests.support.timeline import PODS, Object, phase_of

pytestmark = pytest.mark.node

MOUNTED = "/adapters/support-bot"
READ = f"""
import hashlib, json, pathlib
folder = pathlib.Path({MOUNTED!r})
files = [path for path in folder.rglob("*") if path.is_file()]
digests = {{str(path.relative_to(folder)): "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest() for path in files}}
try:
    (folder / "written").touch()
    error = 0
except OSError as refused:
    error = refused.errno
print(json.dumps({{"error": error, "digests": digests}}))
"""
READ_ONLY_FILE_SYSTEM = 30


def test_a_pushed_adapter_is_mounted_by_its_digest_as_an_image_volume(
    runs: Runs, namespace: str, images: dict[str, str], tmp_path: Path
) -> None:
    with run_registry(tmp_path / "registry", address=runs.cluster.host_address) as url:
        address = f"{HOST_NAME}:{urlsplit(url).port}"
        runs.cluster.trust_registry(address)
        push = {"uri": f"oci://{address}/team-a/support-bot:v1", "endpointUrl": f"http://{address}"}
        run = runs.apply(namespace, "pushed", {"output": {"push": [push]}})
        published, pushed = run.wait_success()["status"]["artifacts"]
        image = f"{pushed['uri'].removeprefix('oci://').rpartition(':')[0]}@{pushed['digest']}"
        runs.cluster.kubectl("create", "--filename=-", stdin=json.dumps(_build_reader(namespace, image, images["operator"])))
        runs.timeline.wait_for(
            PODS, namespace, "reader", lambda body: phase_of(body) in ("Succeeded", "Failed"), START_SECONDS, "the reader has read"
        )
        seen = json.loads(run.log("reader"))
    # The node's images outlive the cluster, and every registry has another port.
    there = runs.cluster.list_images()
    pulled = {digest for name, digest in there.items() if name.startswith(f"{HOST_NAME}:")}
    assert pushed["digest"] in pulled
    runs.cluster.remove_images([name for name, digest in there.items() if digest in pulled])
    manifest = run.store.cat_file(f"{published['uri'].removeprefix('s3://')}/manifest.json")
    assert digest(manifest) == published["digest"]
    promised: dict[str, str] = {file["path"]: file["digest"] for file in json.loads(manifest)["files"]}
    assert "adapter_model.safetensors" in promised
    assert seen["digests"] == {**promised, "manifest.json": published["digest"]}
    assert seen["error"] == READ_ONLY_FILE_SYSTEM


def _build_reader(namespace: str, image: str, program: str) -> Object:
    container = {
        "name": "reader",
        "image": program,
        "imagePullPolicy": "Never",
        "command": ["python", "-c", READ],
        "securityContext": UNPRIVILEGED,
        "volumeMounts": [{"name": "adapter", "mountPath": MOUNTED, "readOnly": True}],
    }
    volumes = [{"name": "adapter", "image": {"reference": image, "pullPolicy": "IfNotPresent"}}]
    spec = {"restartPolicy": "Never", "automountServiceAccountToken": False, "containers": [container], "volumes": volumes}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "reader", "namespace": namespace}, "spec": spec}
