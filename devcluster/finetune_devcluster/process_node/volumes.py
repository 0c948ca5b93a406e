"""A pod's volumes as folders, laid out under the folder that stands in for the container's root."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from finetune_devcluster.files import write_atomic
from finetune_devcluster.process_node.environment import MissingObject, Objects, read_field

KNOWN = ("emptyDir", "projected", "secret", "configMap", "downwardAPI")


def find_unsupported(pod: Mapping[str, Any]) -> list[str]:
    """Return what the process node cannot do of what a pod asks for, in words; nothing when it can do it all."""
    spec = pod["spec"]
    found = [
        f"volume {volume['name']} is of a kind that a process node lacks (it has {', '.join(KNOWN)})"
        for volume in spec.get("volumes", [])
        if not any(kind in volume for kind in KNOWN)
    ]
    if spec.get("initContainers"):
        found.append("it has init containers")
    if len(spec["containers"]) > 1:
        found.append(f"it has {len(spec['containers'])} containers")
    if any("subPath" in mount or "subPathExpr" in mount for mount in spec["containers"][0].get("volumeMounts", [])):
        found.append("a volume is mounted by subPath")
    return found


def list_volume_references(pod: Mapping[str, Any]) -> set[tuple[str, str]]:
    """Return the Secrets and ConfigMaps that the volumes are made from, by kind and name."""
    found = set()
    for volume in pod["spec"].get("volumes", []):
        for source in (volume, *volume.get("projected", {}).get("sources", [])):
            if secret := source.get("secret"):
                found.add(("secret", secret.get("secretName") or secret["name"]))
            if config := source.get("configMap"):
                found.add(("configmap", config["name"]))
    return found


def list_tokens(pod: Mapping[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Return the projected tokens: the volume's name and the source."""
    return [
        (volume["name"], source["serviceAccountToken"])
        for volume in pod["spec"].get("volumes", [])
        for source in volume.get("projected", {}).get("sources", [])
        if "serviceAccountToken" in source
    ]


def make_volumes(pod: Mapping[str, Any], folder: Path, objects: Objects, status: Mapping[str, str]) -> Path:
    """Make a pod's volumes in `folder` and return the folder that stands for the container's root.

    Tokens are not in them yet: `write_token` puts them there.

    Raises:
        MissingObject: a Secret, a ConfigMap or a key in one is not there and not optional.
    """
    root = folder / "root"
    for each in (root / "tmp", root / "dev", folder / "volumes"):
        each.mkdir(parents=True, exist_ok=True)
    for volume in pod["spec"].get("volumes", []):
        place = folder / "volumes" / volume["name"]
        place.mkdir(exist_ok=True)
        for name, content in _list_files(pod, volume, objects, status).items():
            write_atomic(place / name, content, mode=0o600)
    for mount in pod["spec"]["containers"][0].get("volumeMounts", []):
        link = root / mount["mountPath"].strip("/")
        link.parent.mkdir(parents=True, exist_ok=True)
        if link.is_dir() and not link.is_symlink():
            link.rmdir()
        if not link.is_symlink():
            link.symlink_to(folder / "volumes" / mount["name"])
    return root


def write_token(folder: Path, volume: str, path: str, token: str) -> None:
    """Write a projected token, whole, so that a reader never sees a half of it."""
    write_atomic(folder / "volumes" / volume / path, token, mode=0o600)


def _list_files(pod: Mapping[str, Any], volume: Mapping[str, Any], objects: Objects, status: Mapping[str, str]) -> dict[str, str]:
    files: dict[str, str] = {}
    for source in (volume, *volume.get("projected", {}).get("sources", [])):
        for key, kind in (("secret", "secret"), ("configMap", "configmap")):
            if reference := source.get(key):
                files |= _list_keys(objects, kind, reference)
        for item in source.get("downwardAPI", {}).get("items", []):
            files[item["path"]] = read_field(pod, item.get("fieldRef", {}).get("fieldPath", ""), status)
    return files


def _list_keys(objects: Objects, kind: str, reference: Mapping[str, Any]) -> dict[str, str]:
    name = reference.get("secretName") or reference["name"]
    data = objects.get((kind, name))
    if data is None:
        if reference.get("optional"):
            return {}
        raise MissingObject(f'{kind} "{name}" not found')
    if "items" not in reference:
        return dict(data)
    try:
        return {item["path"]: data[item["key"]] for item in reference["items"]}
    except KeyError as error:
        raise MissingObject(f"{kind} {name!r} references non-existent secret key: {error.args[0]}") from None
