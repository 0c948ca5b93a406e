"""A control plane of its own with a queue controller in it: the stand-in, or with `FINETUNE_REAL_KUEUE=1` (`make kueue`) Kueue itself."""

import os
import uuid
from collections.abc import Callable, Iterator

import pytest

from finetune_devcluster import Cluster
from tests.support.crds import install_crds
from tests.support.fake_node import FakeNode
from tests.support.kueue_process import KueueProcess
from tests.support.kueue_stand_in import KueueStandIn
from tests.support.live_run import LiveRun, wait_until
from tests.support.operator_process import OperatorProcess, install_rights, write_kubeconfig

REAL = os.environ.get("FINETUNE_REAL_KUEUE") == "1"


@pytest.fixture(scope="module")
def queue_plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A control plane with FineTuneJobs, in which Jobs are a queue controller's."""
    root = tmp_path_factory.mktemp("queue-plane")
    with Cluster.up(f"kueue-{os.getpid()}", state_root=root, ephemeral=True) as cluster:
        install_crds(cluster)
        yield cluster


@pytest.fixture(scope="module")
def operator(queue_plane: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OperatorProcess]:
    """The operator, with the chart's rights. It starts before there is any Kueue."""
    folder = tmp_path_factory.mktemp("operator")
    install_rights(queue_plane)
    with OperatorProcess(write_kubeconfig(queue_plane, folder / "kubeconfig"), folder) as process:
        yield process
    records = process.read_records()
    assert [record for record in records if "exception" in record or record["level"] in ("error", "critical")] == []
    assert [record["message"] for record in records if " cannot " in str(record["message"])] == []


@pytest.fixture(scope="module")
def kueue(
    operator: OperatorProcess, queue_plane: Cluster, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[KueueProcess | KueueStandIn]:
    """The queue controller, which comes after the operator."""
    del operator
    made = KueueProcess(queue_plane, tmp_path_factory.mktemp("kueue")) if REAL else KueueStandIn(queue_plane)
    with made as kueue:
        yield kueue
    if isinstance(made, KueueStandIn):
        assert made.faults == []


@pytest.fixture(scope="module")
def node(queue_plane: Cluster) -> Iterator[FakeNode]:
    """The node that pods are bound to."""
    with FakeNode(queue_plane) as node:
        yield node


@pytest.fixture
def queue_namespace(queue_plane: Cluster) -> Iterator[str]:
    """A fresh namespace."""
    name = f"test-{uuid.uuid4().hex[:10]}"
    queue_plane.kubectl("create", "namespace", name)
    accounts = f"/api/v1/namespaces/{name}/serviceaccounts"
    wait_until(lambda: queue_plane.client.request("GET", accounts)["items"], "the namespace has a ServiceAccount")
    yield name
    queue_plane.kubectl("delete", "namespace", name, "--wait=false")


@pytest.fixture
def new_run(queue_plane: Cluster, node: FakeNode, operator: OperatorProcess, queue_namespace: str) -> Callable[[str], LiveRun]:
    """Make runs by name in the namespace."""
    del operator
    return lambda name: LiveRun(queue_plane, node, queue_namespace, name)
