"""Bringing a cluster up, mending one that is half there, and taking it down without a trace."""

import shutil
from pathlib import Path

from finetune_devcluster import binaries, control_plane, node, object_store
from finetune_devcluster.api_client import ApiClient
from finetune_devcluster.control_plane import Credentials, Endpoints
from finetune_devcluster.errors import DevClusterError
from finetune_devcluster.pki import KeyPair
from finetune_devcluster.state import ClusterState, Mode, ObjectStore, load_state
from finetune_devcluster.supervisor import NAMESPACE, Supervisor

_READY_TIMEOUT = 60.0
_PORT_ATTEMPTS = 3


def build_client(folder: Path, endpoints: Endpoints) -> ApiClient:
    """Build the administrator's client of the cluster in `folder`."""
    pki = folder / "pki"
    return ApiClient(endpoints.server, pki / "ca.crt", KeyPair(pki / "admin.crt", pki / "admin.key"))


def is_healthy(folder: Path, state: ClusterState) -> bool:
    """Tell whether every process of a cluster runs and its API server answers."""
    supervisor = Supervisor(folder, state)
    return all(supervisor.is_running(name) for name in state.processes) and build_client(folder, state.endpoints).is_ready()


def bring_up(folder: Path, name: str, mode: Mode, *, with_store: bool) -> ClusterState:
    """Return a running cluster in `folder`: the one that runs, mended if need be, or a new one.

    Raises:
        DevClusterError: it cannot be brought up; nothing of the attempt is left running.
    """
    known = load_state(folder)
    fits = known is not None and known.mode == mode and (known.object_store is not None or not with_store)
    if known is not None and fits and (is_healthy(folder, known) or _mend(folder, known)):
        return known
    tear_down(folder)
    for attempt in range(1, _PORT_ATTEMPTS + 1):
        try:
            return _start(folder, name, mode, with_store=with_store)
        except BaseException as error:
            evidence = _keep_logs(folder)
            tear_down(folder)
            # Between finding a free port and listening on it, another process may have taken it.
            lost_port = mode != "node" and "address already in use" in str(error)
            if not lost_port or attempt == _PORT_ATTEMPTS:
                if isinstance(error, DevClusterError):
                    raise DevClusterError(f"{error}\nAll logs: {evidence}") from error
                raise
    raise AssertionError("unreachable: the last attempt returns or raises")


def tear_down(folder: Path) -> None:
    """Stop the cluster in `folder` and remove every trace of it; a cluster that is not there is no error."""
    state = load_state(folder)
    if state is None:
        # A start that died before its first record: only the marks in the processes' environments tell of it.
        state = ClusterState(folder.name, "control-plane", control_plane.build_fixed_endpoints("127.0.0.1"))
    Supervisor(folder, state).stop_all()
    node.remove_traces(folder, state)
    shutil.rmtree(folder, ignore_errors=True)
    if folder.exists():
        shutil.rmtree(folder)


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


def _start(folder: Path, name: str, mode: Mode, *, with_store: bool) -> ClusterState:
    folder.mkdir(parents=True, exist_ok=True)
    if mode == "node":
        return node.start_cluster(folder, name)
    needed = (*binaries.CONTROL_PLANE, *(["versitygw"] if with_store else []))
    paths = binaries.ensure_binaries(needed)
    endpoints = control_plane.find_free_endpoints()
    supervisor = Supervisor(folder, ClusterState(name, mode, endpoints))
    credentials = control_plane.make_credentials(folder / "pki", endpoints)
    client = start_control_plane(supervisor, paths, credentials)
    if with_store:
        port = control_plane.find_free_endpoints().apiserver
        start_object_store(supervisor, paths["versitygw"], "127.0.0.1", port, f"http://127.0.0.1:{port}")
    wait_for_accounts(supervisor, client)
    return supervisor.state


def _mend(folder: Path, state: ClusterState) -> bool:
    """Start again what has ended; False when the cluster is past mending."""
    supervisor = Supervisor(folder, state)
    if NAMESPACE in state.processes and not supervisor.is_running(NAMESPACE):
        return False
    if not any(supervisor.is_running(name) for name in state.processes):
        return False
    try:
        for name in list(state.processes):
            if not supervisor.is_running(name):
                supervisor.restart(name)
        client = build_client(folder, state.endpoints)
        wait_for_api(supervisor, client)
    except DevClusterError:
        return False
    return is_healthy(folder, state)


def _keep_logs(folder: Path) -> Path:
    """Move the logs of a failed start out of the way of its removal, and say where they are."""
    kept = folder.with_name(f"{folder.name}.failed-logs")
    shutil.rmtree(kept, ignore_errors=True)
    if (folder / "logs").exists():
        shutil.move(folder / "logs", kept)
    return kept
