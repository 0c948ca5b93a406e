"""The table by which pods' programs find Services: the local port of a pod that is behind each."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from finetune_devcluster.control_plane import CLUSTER_DOMAIN
from finetune_devcluster.files import write_atomic

Table = dict[str, dict[str, tuple[str, int]]]

_ADDRESS = "127.0.0.1"


def build_table(
    services: Iterable[Mapping[str, Any]],
    pods: Iterable[Mapping[str, Any]],
    fixed: Mapping[str, Mapping[str, tuple[str, int]]],
) -> Table:
    """Build the table: each port of each Service that has a ready pod, under every name that the Service has."""
    table: Table = {}
    ready = [pod for pod in pods if _is_ready(pod)]
    for service in services:
        meta, spec = service["metadata"], service["spec"]
        selector = spec.get("selector")
        behind = [pod for pod in ready if selector and _selects(meta["namespace"], selector, pod)]
        if behind:
            ports = {
                str(port["port"]): (_ADDRESS, number)
                for port in spec.get("ports", [])
                if (number := _find_port(behind[0], port.get("targetPort", port["port"]))) is not None
            }
            _add(table, f"{meta['name']}.{meta['namespace']}", ports)
    for name, known in fixed.items():
        _add(table, name.removesuffix(".svc"), dict(known))
    return table


def write_table(path: Path, table: Table) -> None:
    """Write the table, unless it is what the file says already."""
    text = json.dumps(table, sort_keys=True)
    if not path.exists() or path.read_text() != text:
        write_atomic(path, text)


def _add(table: Table, name: str, ports: dict[str, tuple[str, int]]) -> None:
    for full in (name, f"{name}.svc", f"{name}.svc.{CLUSTER_DOMAIN}"):
        table[full] = ports


def _is_ready(pod: Mapping[str, Any]) -> bool:
    conditions = pod.get("status", {}).get("conditions", [])
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)


def _selects(namespace: str, selector: Mapping[str, str], pod: Mapping[str, Any]) -> bool:
    meta = pod["metadata"]
    return bool(meta["namespace"] == namespace and selector.items() <= meta.get("labels", {}).items())


def _find_port(pod: Mapping[str, Any], target: int | str) -> int | None:
    if isinstance(target, int):
        return target
    for container in pod["spec"]["containers"]:
        for port in container.get("ports", []):
            if port.get("name") == target:
                return int(port["containerPort"])
    return None
