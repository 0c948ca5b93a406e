"""Clusters for the development cluster's own tests: real ones, gone when their test module is."""

from collections.abc import Iterator

import pytest

from finetune_devcluster import Cluster
from tests.support.probe_pods import load_probe, require_node


@pytest.fixture(scope="module")
def control_plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A control plane on loopback."""
    root = tmp_path_factory.mktemp("clusters")
    with Cluster.up("plane", mode="control-plane", state_root=root, ephemeral=True) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def node_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster with a node, the probe's image loaded."""
    require_node()
    root = tmp_path_factory.mktemp("clusters")
    with Cluster.up("node", mode="node", state_root=root, ephemeral=True) as cluster:
        load_probe(cluster, root)
        yield cluster
