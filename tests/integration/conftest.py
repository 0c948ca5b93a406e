"""A real control plane (etcd, API server, controller manager, scheduler), one for the whole session, with the CRD installed."""

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from finetune_devcluster import Cluster

CRD_NAME = "crd/finetunejobs.finetune.dev"
CRD_PATH = Path(__file__).parents[2] / "crds" / "finetunejobs.yaml"


@pytest.fixture(scope="session")
def control_plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A control plane with FineTuneJobs; `kubeconfig`, `kubectl(…)`, `client`, `audit_log` and more, see `Cluster`.

    No pod runs in it: there is no node. Tests share it, each in a namespace of its own.
    """
    root = tmp_path_factory.mktemp("control-plane")
    with Cluster.up(f"it-{os.getpid()}", state_root=root, ephemeral=True) as cluster:
        cluster.kubectl("apply", "--server-side", "-f", str(CRD_PATH))
        # A CRD that was just made has no conditions yet, which `kubectl wait --for=condition` takes for an error.
        cluster.kubectl("wait", "--for=jsonpath={.status.conditions[?(@.type=='Established')].status}=True", "--timeout=30s", CRD_NAME)
        yield cluster


@pytest.fixture
def namespace(control_plane: Cluster) -> Iterator[str]:
    """A fresh namespace, asked to go at the end of the test."""
    name = f"test-{uuid.uuid4().hex[:10]}"
    control_plane.kubectl("create", "namespace", name)
    yield name
    control_plane.kubectl("delete", "namespace", name, "--wait=false")
