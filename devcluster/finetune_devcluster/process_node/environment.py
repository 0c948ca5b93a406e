"""The environment and the command line of a pod's process: pure, but for what is looked up for them."""

import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

_REFERENCE = re.compile(r"\$(\$|\(([A-Za-z_.-][A-Za-z0-9_.-]*)\))")

Objects = Mapping[tuple[str, str], Mapping[str, str] | None]
"""Secrets and ConfigMaps by kind and name, their data decoded; None for one that does not exist."""


class MissingObject(LookupError):
    """A Secret, a ConfigMap or a key that the container cannot do without is not there; the words are kubelet's."""


def list_references(container: Mapping[str, Any]) -> set[tuple[str, str]]:
    """Return the Secrets and ConfigMaps that a container's environment is made from, by kind and name."""
    found = set()
    for source in container.get("envFrom", []):
        for key, kind in (("secretRef", "secret"), ("configMapRef", "configmap")):
            if key in source:
                found.add((kind, source[key]["name"]))
    for variable in container.get("env", []):
        for key, kind in (("secretKeyRef", "secret"), ("configMapKeyRef", "configmap")):
            if reference := variable.get("valueFrom", {}).get(key):
                found.add((kind, reference["name"]))
    return found


def build_variables(pod: Mapping[str, Any], container: Mapping[str, Any], objects: Objects, status: Mapping[str, str]) -> dict[str, str]:
    """Build a container's variables in kubelet's order, `$(NAME)` in values replaced.

    Args:
        status: values of the fields that only the node knows, such as `status.podIP`.

    Raises:
        MissingObject: something that is not optional does not exist.
    """
    variables: dict[str, str] = {}
    for source in container.get("envFrom", []):
        for key, kind in (("secretRef", "secret"), ("configMapRef", "configmap")):
            if reference := source.get(key):
                data = _find(objects, kind, reference)
                variables |= {source.get("prefix", "") + name: value for name, value in data.items()}
    for variable in container.get("env", []):
        value = _read_value(pod, container, variable, objects, status)
        if value is not None:
            variables[variable["name"]] = expand_references(value, variables)
    return variables


def expand_references(text: str, variables: Mapping[str, str]) -> str:
    """Replace `$(NAME)` by the variable's value; an unknown name stays, and `$$` is a dollar sign."""

    def replace(match: re.Match[str]) -> str:
        if match[1] == "$":
            return "$"
        return variables.get(match[2], match[0])

    return _REFERENCE.sub(replace, text)


def build_command(
    container: Mapping[str, Any], entrypoint: Sequence[str], variables: Mapping[str, str], mount_paths: Sequence[str], root: str
) -> list[str]:
    """Build the command line: the container's command, or the image's entrypoint, and the container's arguments.

    Paths are rewritten in the container's words alone: the entrypoint is a command of this machine.
    """
    command = container.get("command")
    words = [expand_references(word, variables) for word in [*(command or ()), *container.get("args", [])]]
    return [*(() if command else entrypoint), *(rewrite_paths(word, mount_paths, root) for word in words)]


def rewrite_paths(text: str, mount_paths: Sequence[str], root: str) -> str:
    """Put `root` before each path in `text` that is, or lies below, one of the mount paths.

    Only a path that begins there counts: `/data` is found in `/data`, `"/data/x"` and `a=/data`, but not in `s3://a/data`.
    """
    if not mount_paths:
        return text
    longest_first = "|".join(re.escape(path.rstrip("/")) for path in sorted(mount_paths, key=len, reverse=True))
    pattern = rf"(?<![\w/.~%@+-])({longest_first})(?=[/\"',:;\s\]}}]|$)"
    return re.sub(pattern, lambda match: root + match[1], text)


def read_field(pod: Mapping[str, Any], path: str, status: Mapping[str, str]) -> str:
    """Return a field of the pod as the downward API gives it; one that is not there is empty."""
    if path in status:
        return status[path]
    if match := re.fullmatch(r"metadata\.(labels|annotations)\['(.+)'\]", path):
        return str(pod["metadata"].get(match[1], {}).get(match[2], ""))
    value: Any = pod
    for part in path.split("."):
        value = value.get(part, "") if isinstance(value, Mapping) else ""
    if isinstance(value, Mapping):
        return "\n".join(f'{key}="{each}"' for key, each in sorted(value.items()))
    return str(value)


def _read_value(
    pod: Mapping[str, Any],
    container: Mapping[str, Any],
    variable: Mapping[str, Any],
    objects: Objects,
    status: Mapping[str, str],
) -> str | None:
    source = variable.get("valueFrom")
    if source is None:
        return str(variable.get("value", ""))
    if field := source.get("fieldRef"):
        return read_field(pod, field["fieldPath"], status)
    if resource := source.get("resourceFieldRef"):
        section, _, name = resource["resource"].partition(".")
        return str(container.get("resources", {}).get(section, {}).get(name, "0"))
    for key, kind in (("secretKeyRef", "secret"), ("configMapKeyRef", "configmap")):
        if reference := source.get(key):
            data = _find(objects, kind, reference)
            if reference["key"] not in data and not reference.get("optional"):
                raise MissingObject(f"couldn't find key {reference['key']} in {kind} {reference['name']}")
            return data.get(reference["key"])
    raise MissingObject(f"variable {variable['name']} has a source that the process node does not know")


def _find(objects: Objects, kind: str, reference: Mapping[str, Any]) -> Mapping[str, str]:
    data = objects.get((kind, reference["name"]))
    if data is not None:
        return data
    if reference.get("optional"):
        return {}
    raise MissingObject(f'{kind} "{reference["name"]}" not found')


def build_base_environment(root: str, host_name: str, path: Sequence[str], python_path: str) -> dict[str, str]:
    """Build what a process has besides its container's variables: of this machine's environment, only the PATH."""
    return {
        "PATH": os.pathsep.join([*path, os.environ.get("PATH", os.defpath)]),
        "HOME": root,
        "TMPDIR": f"{root}/tmp",  # noqa: S108 - a folder of the pod's own
        "HOSTNAME": host_name,
        "LANG": "C.UTF-8",
        "PYTHONPATH": python_path,
        "FINETUNE_ROOT": root,
    }
