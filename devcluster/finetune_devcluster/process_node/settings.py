"""What the process node is told when it starts, and the table of images that may change while it runs."""

import json
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from finetune_devcluster.files import write_json

IMAGES_FILE = "process-images.json"

BANNER = (
    "process node: a STAND-IN for a kubelet. Pods run as local processes of this user: nothing isolates their files, "
    "network, memory or processes; images are local commands; security contexts and limits are ignored."
)


@dataclass(frozen=True)
class LocalImage:
    """What stands in for an image: the command of a container that names none, and folders put first on PATH."""

    entrypoint: tuple[str, ...]
    path: tuple[str, ...] = ()


@dataclass(frozen=True)
class Settings:
    """Everything that the process node needs to know, from its command line."""

    folder: Path
    """The cluster's state folder: `pki/`, the images' table, and what the node makes under `pods/`."""
    server: str
    node_name: str
    port: int
    """Where logs are served, on loopback."""
    pod_address: str
    """The address that pods are said to have: this machine's, as nothing gives them one of their own."""
    names: Mapping[str, Mapping[str, tuple[str, int]]]
    """Local address and port of names that no Service of the cluster has, by name and port."""


def find_pod_address() -> str:
    """Return the address by which this machine reaches others, as Services refuse a loopback one; else loopback."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            # A datagram socket that connects sends nothing: it only finds its way.
            probe.connect(("198.51.100.1", 9))
        except OSError:
            return "127.0.0.1"
        return str(probe.getsockname()[0])


def write_image(folder: Path, reference: str, image: LocalImage) -> None:
    """Put a local command into the table of images, in the place of any that was there."""
    table = _read_table(folder)
    table[reference] = {"entrypoint": list(image.entrypoint), "path": list(image.path)}
    write_json(folder / IMAGES_FILE, table)


def read_image(folder: Path, reference: str) -> LocalImage | None:
    """Return what stands in for an image; None for one that is not in the table. The table is read at every pod."""
    for pattern, value in _read_table(folder).items():
        if fnmatchcase(reference, pattern):
            return LocalImage(tuple(value["entrypoint"]), tuple(value.get("path", ())))
    return None


def _read_table(folder: Path) -> dict[str, Any]:
    try:
        table: dict[str, Any] = json.loads((folder / IMAGES_FILE).read_text())
    except FileNotFoundError:
        return {}
    return table
