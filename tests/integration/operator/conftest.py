"""The operator as a real process on a real control plane, with the chart's rights; a stand-in plays the one node."""

import json
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from finetune_devcluster import Cluster
from finetune_operator.kube.client import KubeClient
from finetune_operator.kube.connection import find_connection
from tests.support.fake_node import FakeNode
from tests.support.live_run import LiveRun, NewRun, wait_until
from tests.support.operator_process import OperatorProcess, install_rights, write_kubeconfig
from tests.support.span_receiver import SpanReceiver, run_span_receiver

WITH_DEFAULTS = "with-defaults"
"""A namespace to whose runs the operator gives :data:`DEFAULTS`."""
DEFAULTS = {
    "trainerImage": "registry.example.com/team/trainer:2",
    "nodeSelector": {"kubernetes.io/hostname": "fake-node"},
    "tolerations": [{"key": "dedicated", "operator": "Exists"}],
    "env": [{"name": "HTTPS_PROXY", "value": "http://proxy.example.com:3128"}],
    "imagePullSecrets": [{"name": "registry"}],
    "credentials": [{"prefix": "s3://", "credentialsSecret": {"name": "team-s3"}, "endpointUrl": "https://minio.example.com"}],
    "modelCache": "models",
    "tracking": [{"type": "mlflow", "url": "https://mlflow.example.com"}],
}


@pytest.fixture
async def kube_client(control_plane: Cluster, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[KubeClient]:
    """The operator's own client, with an administrator's rights."""
    monkeypatch.setenv("KUBECONFIG", str(control_plane.kubeconfig))
    client = KubeClient(find_connection)
    yield client
    await client.close()


@pytest.fixture(scope="session")
def node(control_plane: Cluster) -> Iterator[FakeNode]:
    """The node that pods are bound to."""
    with FakeNode(control_plane) as node:
        yield node
    assert node.faults == []


@pytest.fixture(scope="session")
def operator_kubeconfig(control_plane: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A kubeconfig with the operator's own rights."""
    install_rights(control_plane)
    return write_kubeconfig(control_plane, tmp_path_factory.mktemp("operator") / "kubeconfig")


@pytest.fixture(scope="session")
def span_receiver() -> Iterator[SpanReceiver]:
    """Where the operator sends its spans."""
    with run_span_receiver() as receiver:
        yield receiver


@pytest.fixture(scope="session")
def operator(operator_kubeconfig: Path, span_receiver: SpanReceiver, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OperatorProcess]:
    """The operator that most tests share. At the end: it stops when told to, and nothing that it did was forbidden or unforeseen."""
    environment = {
        "FINETUNE_NODE_CHECK": "true",
        "FINETUNE_NODE_SECONDS": "1",
        "FINETUNE_GPU_PRICES": '{"nvidia.com/gpu": 2.5}',
        "FINETUNE_TRACING_ENDPOINT": span_receiver.endpoint,
        "FINETUNE_TRACING_HEADERS": "authorization=Bearer%20of-the-operator",
        "FINETUNE_TRACING_TRAINER_SECRET": "otlp",
        "OTEL_BSP_SCHEDULE_DELAY": "200",
        "FINETUNE_DEFAULTS": json.dumps({"namespaces": {WITH_DEFAULTS: DEFAULTS}}),
    }
    process = OperatorProcess(operator_kubeconfig, tmp_path_factory.mktemp("operator"), environment)
    process.start()
    yield process
    assert process.stop() == 0
    records = process.read_records()
    assert records
    assert [record for record in records if "exception" in record or record["level"] in ("error", "critical")] == []
    # As RBAC words a refusal. (Quota, policies and namespaces that are being deleted refuse too; tests want that.)
    assert [record["message"] for record in records if re.search(r"cannot \w+ resource", str(record["message"]))] == []


@pytest.fixture
def new_run(control_plane: Cluster, node: FakeNode, operator: OperatorProcess, namespace: str) -> NewRun:  # noqa: ARG001
    """Make runs by name, in a fresh namespace."""
    wait_for_account(control_plane, namespace)
    return lambda name="run": LiveRun(control_plane, node, namespace, name)


def wait_for_account(cluster: Cluster, namespace: str) -> None:
    """Wait until a new namespace can have pods."""
    path = f"/api/v1/namespaces/{namespace}/serviceaccounts"
    wait_until(lambda: cluster.client.request("GET", path)["items"], "the namespace has a ServiceAccount")
