"""What is remembered of a cluster between two commands: one JSON file, replaced whole at every change."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from finetune_devcluster.control_plane import Endpoints
from finetune_devcluster.files import write_json
from finetune_devcluster.node_config import NodeNetwork
from finetune_devcluster.processes import ProcessRecord

Mode = Literal["node", "control-plane", "process-node"]

_FILE = "cluster.json"


@dataclass(frozen=True)
class ObjectStore:
    """The S3 server: its URL from this machine, its URL from pods, the bucket and the keys."""

    endpoint: str
    pod_endpoint: str
    bucket: str
    access_key: str
    secret_key: str
    region: str = "us-east-1"


@dataclass
class ClusterState:
    """The state of one cluster."""

    name: str
    mode: Mode
    endpoints: Endpoints
    network: NodeNetwork | None = None
    gpus: int = 0
    processes: dict[str, ProcessRecord] = field(default_factory=dict)
    object_store: ObjectStore | None = None
    image_store: str | None = None
    """The containerd folder in the cache that this cluster has taken."""


def save_state(folder: Path, state: ClusterState) -> None:
    """Write the state; it holds the object store's key, so only its owner can read it."""
    value = {
        "name": state.name,
        "mode": state.mode,
        "endpoints": state.endpoints.as_json(),
        "network": None if state.network is None else vars(state.network),
        "gpus": state.gpus,
        "processes": {name: record.as_json() for name, record in state.processes.items()},
        "object_store": None if state.object_store is None else vars(state.object_store),
        "image_store": state.image_store,
    }
    write_json(folder / _FILE, value, mode=0o600)


def load_state(folder: Path) -> ClusterState | None:
    """Read the state of the cluster in `folder`; None when there is none, or none that this version understands."""
    try:
        value: Mapping[str, Any] = json.loads((folder / _FILE).read_text())
        store, network = value["object_store"], value["network"]
        return ClusterState(
            name=value["name"],
            mode=value["mode"],
            endpoints=Endpoints(**value["endpoints"]),
            network=None if network is None else NodeNetwork(**network),
            gpus=value["gpus"],
            processes={name: ProcessRecord.from_json(each) for name, each in value["processes"].items()},
            object_store=None if store is None else ObjectStore(**store),
            image_store=value["image_store"],
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None
