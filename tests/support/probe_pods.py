"""Pods of the development cluster's own tests: they run `devcluster/binaries/probe`."""

import json
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from finetune_devcluster import Cluster, capabilities
from finetune_devcluster.binaries import compute_architecture, ensure_binaries
from finetune_devcluster.images import make_single_file_image

PROBE_IMAGE = "finetune.dev/devcluster/probe:test"


def require_node() -> None:
    """Skip, and say why, where this machine can run no containers; fail there if `FINETUNE_REQUIRE_NODE` is set, as in CI."""
    if capabilities.compute_capabilities(capabilities.observe_machine()).installable:
        capabilities.install_packages()
    able = capabilities.compute_capabilities(capabilities.observe_machine())
    if able.node:
        if os.environ.get("FINETUNE_REQUIRE_NODE"):
            pytest.fail(able.describe(), pytrace=False)
        pytest.skip(able.describe())


def load_probe(cluster: Cluster, folder: Path) -> None:
    """Load the probe's image into a node."""
    program = ensure_binaries(["probe"])["probe"]
    architecture = compute_architecture(platform.machine())
    cluster.load_image(make_single_file_image(folder / "probe.tar", program, architecture, PROBE_IMAGE))


def build_pod(name: str, *arguments: str, **spec: Any) -> dict[str, Any]:
    """Build a pod that runs the probe under the restricted Pod Security Standard."""
    container = {
        "name": "probe",
        "image": PROBE_IMAGE,
        "args": list(arguments),
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        **spec.pop("container", {}),
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"probe": name}},
        "spec": {
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 5,
            "securityContext": {"runAsNonRoot": True, "runAsUser": 1000, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [container],
            **spec,
        },
    }


def apply(cluster: Cluster, *manifests: dict[str, Any]) -> None:
    """Apply manifests as the administrator."""
    cluster.kubectl("apply", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": manifests}))


def wait_pod(cluster: Cluster, name: str, done: Callable[[dict[str, Any]], object], timeout: float = 40) -> dict[str, Any]:
    """Return a pod once `done` holds of it, or fail with the pod's status."""
    deadline = time.monotonic() + timeout
    while True:
        pod: dict[str, Any] = cluster.client.request("GET", f"/api/v1/namespaces/default/pods/{name}")
        if done(pod):
            return pod
        if time.monotonic() > deadline:
            raise AssertionError(f"pod {name} is not there after {timeout} s: {json.dumps(pod['status'], indent=1)}")
        time.sleep(0.1)


def has_ended(pod: dict[str, Any]) -> bool:
    """Tell whether a pod has run to its end."""
    return pod["status"].get("phase") in ("Succeeded", "Failed")


def read_log(cluster: Cluster, name: str) -> str:
    """Return the log of a pod."""
    return cluster.kubectl("logs", name)
