"""Bringing a cluster up, mending one that is half there, and taking it down without a trace."""

import shutil
from pathlib import Path

from finetune_devcluster import binaries, control_plane, node
from finetune_devcluster.errors import DevClusterError
from finetune_devcluster.object_store import POD_ENDPOINT
from finetune_devcluster.ports import find_free_ports
from finetune_devcluster.startup import (
    build_client,
    start_control_plane,
    start_object_store,
    start_process_node,
    wait_for_accounts,
    wait_for_api,
    wait_for_node,
)
from finetune_devcluster.state import ClusterState, Mode, load_state
from finetune_devcluster.supervisor import NAMESPACE, Supervisor

_PORT_ATTEMPTS = 3


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
            state = _start(folder, name, mode, with_store=with_store)
        except BaseException as error:
            evidence = _keep_logs(folder)
            tear_down(folder)
            # Between finding a free port and listening on it, another process may have taken it.
            lost_port = mode != "node" and "address already in use" in str(error)
            if not lost_port or attempt == _PORT_ATTEMPTS:
                if isinstance(error, DevClusterError):
                    raise DevClusterError(f"{error}\nAll logs: {evidence}") from error
                raise
        else:
            remove_kept_logs(folder)
            return state
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
        (port,) = find_free_ports(1)
        start_object_store(
            supervisor, paths["versitygw"], "127.0.0.1", port, POD_ENDPOINT if mode == "process-node" else f"http://127.0.0.1:{port}"
        )
    wait_for_accounts(supervisor, client)
    if mode == "process-node":
        start_process_node(supervisor, credentials)
        wait_for_node(supervisor, client, ["process-node"])
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


def remove_kept_logs(folder: Path) -> None:
    """Remove what a failed start left to be read."""
    shutil.rmtree(_find_kept_logs(folder), ignore_errors=True)


def _find_kept_logs(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.failed-logs")


def _keep_logs(folder: Path) -> Path:
    """Move the logs of a failed start out of the way of its removal, and say where they are."""
    kept = _find_kept_logs(folder)
    remove_kept_logs(folder)
    if (folder / "logs").exists():
        shutil.move(folder / "logs", kept)
    return kept
