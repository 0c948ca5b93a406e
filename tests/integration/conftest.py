"""A real control plane (etcd, API server, controller manager, scheduler), one for the whole session, with the CRD installed."""

import os
import uuid
from collections.abc import Iterator

import pytest

from finetune_devcluster import Cluster
from tests.support.crds import install_crds


@pytest.fixture(scope="session")
def control_plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A control plane with FineTuneJobs; `kubeconfig`, `kubectl(…)`, `client`, `audit_log` and more, see `Cluster`.

    No pod runs in it: there is no node. Tests share it, each in a namespace of its own.
    """
    root = tmp_path_factory.mktemp("control-plane")
    with Cluster.up(f"it-{os.getpid()}", state_root=root, ephemeral=True) as cluster:
        install_crds(cluster)
        yield cluster


@pytest.fixture
def namespace(control_plane: Cluster) -> Iterator[str]:
    """A fresh namespace, asked to go at the end of the test."""
    name = f"test-{uuid.uuid4().hex[:10]}"
    control_plane.kubectl("create", "namespace", name)
    yield name
    control_plane.kubectl("delete", "namespace", name, "--wait=false")
