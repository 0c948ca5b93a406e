"""The schedulers that place groups, themselves: with `FINETUNE_REAL_GANGS=1` (`make gangs`), each beside a control plane of its own."""

import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import pytest

from finetune_devcluster import Cluster
from tests.support.crds import install_crds
from tests.support.fake_node import FakeNode
from tests.support.gang_schedulers import SCHEDULERS, GangScheduler
from tests.support.live_run import LiveRun, wait_until
from tests.support.operator_process import OperatorProcess, install_rights, write_kubeconfig


@dataclass(frozen=True)
class Engine:
    """A scheduler for groups, and the control plane and operator that it works with."""

    scheduler: GangScheduler
    cluster: Cluster
    operator: OperatorProcess


@pytest.fixture(scope="module", params=sorted(SCHEDULERS))
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """Each scheduler in turn, with an operator that the chart sets up for it."""
    kind = SCHEDULERS[request.param]
    folder = tmp_path_factory.mktemp(kind.gang)
    with Cluster.up(f"gangs-{uuid.uuid4().hex[:6]}", state_root=folder, ephemeral=True) as cluster, kind(cluster, folder) as scheduler:
        install_crds(cluster)
        install_rights(cluster, more=f"gangScheduling.{kind.gang}.schedulerName={kind.scheduler_name}")
        environment = {"FINETUNE_GANG_SCHEDULERS": f'{{"{kind.gang}": "{kind.scheduler_name}"}}'}
        with OperatorProcess(write_kubeconfig(cluster, folder / "kubeconfig"), folder, environment) as operator:
            yield Engine(scheduler, cluster, operator)
        records = operator.read_records()
        assert [record for record in records if "exception" in record or record["level"] in ("error", "critical")] == []


class Pool:
    """Nodes that come one by one, with the GPUs that they are said to have."""

    def __init__(self, cluster: Cluster, nodes: ExitStack) -> None:
        self._cluster, self._nodes = cluster, nodes
        self.first: FakeNode | None = None

    def add(self, gpus: int) -> FakeNode:
        """Add a node. What pods do is said by the first one's scripts, for all."""
        node = FakeNode(self._cluster, f"node-{uuid.uuid4().hex[:6]}", capacity={"nvidia.com/gpu": str(gpus)})
        if self.first is not None:
            node.scripts = self.first.scripts
        self.first = self.first or node
        self._nodes.callback(lambda: self._cluster.client.request("DELETE", f"/api/v1/nodes/{node.name}"))
        return self._nodes.enter_context(node)


@pytest.fixture
def namespace(engine: Engine) -> str:
    """A fresh namespace. What a test leaves in it ends with its pool."""
    name = f"test-{uuid.uuid4().hex[:10]}"
    engine.cluster.kubectl("create", "namespace", name)
    accounts = f"/api/v1/namespaces/{name}/serviceaccounts"
    wait_until(lambda: engine.cluster.client.request("GET", accounts)["items"], "the namespace has a ServiceAccount")
    return name


@pytest.fixture
def pool(engine: Engine, namespace: str) -> Iterator[Pool]:
    """The cluster's nodes: none yet. They go with the test, and its pods before them."""
    with ExitStack() as nodes:
        yield Pool(engine.cluster, nodes)
        engine.cluster.kubectl("delete", "namespace", namespace, "--wait=false")
        pods = f"/api/v1/namespaces/{namespace}/pods"
        wait_until(lambda: not engine.cluster.client.request("GET", pods)["items"], "the test's pods have gone")


@pytest.fixture
def new_run(engine: Engine, pool: Pool, namespace: str) -> Callable[[str], LiveRun]:
    """Make runs by name. The pool has a node by then."""

    def make(name: str) -> LiveRun:
        assert pool.first is not None
        return LiveRun(engine.cluster, pool.first, namespace, name)

    return make
