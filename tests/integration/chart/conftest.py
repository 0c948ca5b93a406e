"""A control plane for releases of the chart: their admission policies hold in every namespace, and for a moment after they were removed."""

import os
from collections.abc import Iterator

import pytest

from finetune_devcluster import Cluster
from tests.support.crds import install_crds


@pytest.fixture(scope="session")
def control_plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A control plane that no test shares which applies FineTuneJobs."""
    root = tmp_path_factory.mktemp("chart-plane")
    with Cluster.up(f"chart-{os.getpid()}", state_root=root, ephemeral=True) as cluster:
        install_crds(cluster)
        yield cluster
