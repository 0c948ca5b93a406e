"""Starting the parts that every mode has, and waiting until they serve."""

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from finetune_devcluster import control_plane, object_store
from finetune_devcluster.api_client import ApiClient
from finetune_devcluster.control_plane import Credentials, Endpoints
from finetune_devcluster.errors import DevClusterError
from finetune_devcluster.node_config import NODE_NAME
from finetune_devcluster.paths import SOURCE_ROOT
from finetune_devcluster.pki import KeyPair
from finetune_devcluster.ports import find_free_ports
from finetune_devcluster.state import ObjectStore
from finetune_devcluster.supervisor import Supervisor

_READY_TIMEOUT = 60.0
_NODE_TIMEOUT = 90.0


def build_client(folder: Path, endpoints: Endpoints) -> ApiClient:
    """Build the administrator's client of the cluster in `folder`."""
    pki = folder / "pki"
    return ApiClient(endpoints.server, pki / "ca.crt", KeyPair(pki / "admin.crt", pki / "admin.key"))


def start_control_plane(supervisor: Supervisor, paths: dict[str, Path], credentials: Credentials) -> ApiClient:
    """Start etcd, the API server, the controller manager and the scheduler, and wait until they serve."""
    folder, endpoints = supervisor.folder, supervisor.state.endpoints
    audit_policy = control_plane.write_audit_policy(folder / "audit-policy.json")
    supervisor.start("etcd", control_plane.build_etcd(paths["etcd"], folder / "etcd", endpoints))
    apiserver = control_plane.build_apiserver(paths["kube-apiserver"], endpoints, credentials, audit_policy, folder / "audit.log")
    supervisor.start("kube-apiserver", apiserver)
    client = build_client(folder, endpoints)
    wait_for_api(supervisor, client)
    for name, build in (
        ("kube-controller-manager", control_plane.build_controller_manager),
        ("kube-scheduler", control_plane.build_scheduler),
    ):
        supervisor.start(name, build(paths[name], endpoints, credentials))
    return client


def wait_for_api(supervisor: Supervisor, client: ApiClient) -> None:
    """Wait until the API server is ready."""
    supervisor.wait("API server ready", client.is_ready, _READY_TIMEOUT, ["etcd", "kube-apiserver"])


def wait_for_accounts(supervisor: Supervisor, client: ApiClient) -> None:
    """Wait until the controller manager has made the default service account: before that no pod can be created."""
    path = "/api/v1/namespaces/default/serviceaccounts/default"
    needs = ["etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler"]
    supervisor.wait("controller manager working", lambda: client.is_ready(path), _READY_TIMEOUT, needs)


def start_object_store(supervisor: Supervisor, binary: Path, address: str, port: int, pod_endpoint: str) -> None:
    """Start the S3 server and make its bucket."""
    store = ObjectStore(
        endpoint=f"http://{address}:{port}",
        pod_endpoint=pod_endpoint,
        bucket=object_store.BUCKET,
        access_key=object_store.ACCESS_KEY,
        secret_key=control_plane.make_object_store_secret(),
    )
    metadata, data = supervisor.folder / "s3" / "metadata", supervisor.folder / "s3" / "data"
    for each in (metadata, data):
        each.mkdir(parents=True, exist_ok=True)
    supervisor.state.object_store = store
    argv = object_store.build_versitygw(binary, address, port, metadata, data)
    supervisor.start("versitygw", argv, object_store.build_environment(store))
    object_store.ensure_bucket(store)


def wait_for_node(supervisor: Supervisor, client: ApiClient, needs: Sequence[str], name: str = NODE_NAME) -> None:
    """Wait until the node called ``name`` is ready and takes pods."""

    def ready() -> bool:
        try:
            found = client.request("GET", f"/api/v1/nodes/{name}")
        except (OSError, DevClusterError):
            return False
        conditions = {each["type"]: each["status"] for each in found["status"].get("conditions", [])}
        return conditions.get("Ready") == "True" and not found["spec"].get("taints")

    supervisor.wait("node ready", ready, _NODE_TIMEOUT, needs)


def start_process_node(supervisor: Supervisor, credentials: Credentials) -> None:
    """Start the stand-in for a kubelet, which runs pods as local processes."""
    folder, endpoints, authority = supervisor.folder, supervisor.state.endpoints, credentials.authority
    user = f"system:node:{NODE_NAME}"
    authority.issue("kubelet", user, [control_plane.NODE_GROUP])
    authority.issue("kubelet-server", user, [control_plane.NODE_GROUP], hosts=["127.0.0.1", NODE_NAME])
    authority.issue("kube-proxy", "system:kube-proxy")
    names: dict[str, dict[str, tuple[str, int]]] = {"kubernetes.default.svc": {"443": (endpoints.address, endpoints.apiserver)}}
    if store := supervisor.state.object_store:
        _, _, port = store.endpoint.rpartition(":")
        names[f"{object_store.SERVICE}.{object_store.NAMESPACE}.svc"] = {str(object_store.PORT): ("127.0.0.1", int(port))}
    argv = [sys.executable, "-m", "finetune_devcluster.process_node", f"--folder={folder}", f"--server={endpoints.server}"]
    (own_port,) = find_free_ports(1)
    argv += [f"--node-name={NODE_NAME}", f"--port={own_port}"]
    argv += [f"--names={json.dumps(names)}"]
    path = os.pathsep.join(filter(None, [str(SOURCE_ROOT), os.environ.get("PYTHONPATH")]))
    supervisor.start("process-node", argv, {"PYTHONPATH": path})
