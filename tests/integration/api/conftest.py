"""A control plane without an operator: what the API server alone makes of a manifest is what these tests are about."""

import os
from collections.abc import Iterator

import pytest

from finetune_devcluster import Cluster
from tests.support.crds import install_crds


@pytest.fixture(scope="session")
def control_plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A control plane on which nobody else writes statuses, whichever tests ran before in this process."""
    root = tmp_path_factory.mktemp("api-plane")
    with Cluster.up(f"api-{os.getpid()}", state_root=root, ephemeral=True) as cluster:
        install_crds(cluster)
        yield cluster
