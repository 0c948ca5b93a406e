"""GPUs that a node advertises and does not have, for scheduling, quotas and preemption."""

from pathlib import Path

from finetune_devcluster.api_client import ApiClient
from finetune_devcluster.binaries import ensure_binaries
from finetune_devcluster.errors import DevClusterError
from finetune_devcluster.files import write_atomic
from finetune_devcluster.node_config import NODE_NAME
from finetune_devcluster.supervisor import Supervisor

RESOURCE = "nvidia.com/gpu"

_PLUGIN = "gpu-plugin"
_TIMEOUT = 30.0


def advertise_gpus(supervisor: Supervisor, client: ApiClient, count: int) -> None:
    """Let the node advertise `count` GPUs from now on, kubelet's restarts included, and wait until it does.

    Raises:
        DevClusterError: the cluster has no node, or kubelet did not follow in time.
    """
    if supervisor.state.mode == "control-plane":
        raise DevClusterError("a control plane alone has no node to advertise GPUs on: use mode node or process-node")
    if count < 0:
        raise DevClusterError(f"gpus: {count} is below 0")
    supervisor.state.gpus = count
    supervisor.save()
    write_count(supervisor.folder, count)
    if supervisor.state.mode == "node":
        if count == 0 and _PLUGIN not in supervisor.state.processes:
            return
        if not supervisor.is_running(_PLUGIN):
            binary = ensure_binaries([_PLUGIN])[_PLUGIN]
            argv = [str(binary), f"-resource={RESOURCE}", f"-count-file={count_file(supervisor.folder)}"]
            supervisor.start(_PLUGIN, argv)
    needs = [name for name in ("kubelet", _PLUGIN, "process-node") if name in supervisor.state.processes]
    supervisor.wait(f"{count} GPUs advertised", lambda: observe_allocatable(client) == count, _TIMEOUT, needs)


def observe_allocatable(client: ApiClient) -> int | None:
    """Return how many GPUs the scheduler may hand out on the node; None when the API server does not say."""
    try:
        node = client.request("GET", f"/api/v1/nodes/{NODE_NAME}")
    except (OSError, DevClusterError):
        return None
    return int(node["status"].get("allocatable", {}).get(RESOURCE, "0"))


def count_file(folder: Path) -> Path:
    """Return the file that holds how many GPUs are to be advertised."""
    return folder / "gpus"


def write_count(folder: Path, count: int) -> None:
    """Write how many GPUs are to be advertised."""
    write_atomic(count_file(folder), f"{count}\n")
