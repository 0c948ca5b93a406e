"""What `output.push` leaves in a registry, in the hands of a node's container runtime.

An image volume is this, done by kubelet and containerd (2.1 and newer): pull by digest, unpack, mount read-only. The node of these tests
has Debian's containerd, which is older, so the three steps are asked of it one by one.
"""

import subprocess
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from finetune_devcluster import Cluster, image_store
from finetune_trainer.storage import Credentials
from finetune_trainer.storage.images import push_image
from finetune_trainer.storage.registry import Registry
from tests.support.registry_server import run_registry

pytestmark = pytest.mark.node
SECONDS = 120


def run_on_node(cluster: Cluster, *words: str) -> str:
    """Run a program in the node's own namespaces."""
    spoken = subprocess.run([*cluster.entry, *words], capture_output=True, text=True, timeout=SECONDS, check=False)
    assert spoken.returncode == 0, spoken.stdout + spoken.stderr
    return spoken.stdout


def test_a_pushed_artifact_is_pulled_by_digest_unpacked_and_mounted_read_only(cluster: Cluster, tmp_path: Path) -> None:
    files = {"adapter_config.json": b"{}", "tokenizer/vocab.json": b'{"a": 1}', "adapter_model.safetensors": bytes(range(256)) * 9000}
    for path, content in files.items():
        (tmp_path / "adapter" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "adapter" / path).write_bytes(content)
    with run_registry(tmp_path / "registry", address=cluster.host_address) as url:
        registry = Registry("oci://registry.test/team-a/support-bot:v1", "output", Credentials(), url)
        image = f"{urlsplit(url).netloc}/team-a/support-bot@{push_image(tmp_path / 'adapter', registry, {})}"
        snapshotter = f"--snapshotter={image_store.find_snapshotter(tmp_path)}"
        run_on_node(cluster, "ctr", "--namespace=k8s.io", "images", "pull", "--plain-http", snapshotter, image)
    target = "/run/pushed-image"
    run_on_node(cluster, "mkdir", "-p", target)
    try:
        run_on_node(cluster, "ctr", "--namespace=k8s.io", "images", "mount", snapshotter, image, target)
        found = run_on_node(cluster, "find", target, "-type", "f").split()
        assert {path.removeprefix(f"{target}/") for path in found} == files.keys()
        digests = run_on_node(cluster, "sha256sum", *found)
        here = subprocess.run(["sha256sum", *files], cwd=tmp_path / "adapter", capture_output=True, text=True, check=True).stdout
        assert sorted(digests.replace(f"{target}/", "").splitlines()) == sorted(here.splitlines())
    finally:
        run_on_node(cluster, "ctr", "--namespace=k8s.io", "images", "unmount", "--rm", target)
        run_on_node(cluster, "ctr", "--namespace=k8s.io", "images", "rm", image)
