"""JSON schemas of Kubernetes' own kinds, for kubeconform: made from the OpenAPI documents in the release's Go module.

Each file stands by itself, and refuses fields that the kind doesn't have.
"""

import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any, Final

from finetune_devcluster.errors import DevClusterError
from finetune_devcluster.files import hold_lock
from finetune_devcluster.go_toolchain import ensure_go
from finetune_devcluster.paths import compute_cache_root

RELEASES: Final = {
    "v1.33.13": "h1:bmH31xUdSzeA5vk0wZAK9MZp11mdLuzUSeKk0qN3hPQ=",
    "v1.34.4": "h1:Yy6R4QB8C9kJPp25GFqEvX5XQwY5qzKeqD0Xx6oAcmk=",
    "v1.35.4": "h1:o/8dBC/pHVpYoGV4OAIytAlNPZbdYVTXJHoYvXC4qzM=",
    "v1.36.3": "h1:qDQdoMiluAE2Eab6Fa52YV+WjiGz9mZFFoagEA6cI+o=",
}
"""Kubernetes releases, and the hash of each Go module as a go.sum has it."""
LOCATION: Final = "{{ .Group }}_{{ .ResourceAPIVersion }}_{{ .ResourceKind }}.json"
"""The name of a kind's file, as kubeconform's `-schema-location` puts it."""

_DOWNLOAD_TIMEOUT: Final = 300.0
_REFERENCE: Final = "#/components/schemas/"


def ensure_schemas(version: str) -> Path:
    """Return the folder with the schemas of a Kubernetes release, making it where the cache lacks it.

    Raises:
        DevClusterError: the module can't be had, or isn't the one that is pinned.
    """
    folder = compute_cache_root() / "schemas" / version
    if folder.exists():
        return folder
    with hold_lock(folder.parent / ".lock", _DOWNLOAD_TIMEOUT, "making Kubernetes' schemas"):
        if not folder.exists():
            with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
                documents = _download(version, Path(scratch))
                made = Path(scratch) / "schemas"
                made.mkdir()
                for document in documents.glob("*.json"):
                    for name, schema in build_schemas(json.loads(document.read_text())).items():
                        (made / name).write_text(json.dumps(schema))
                shutil.move(made, folder)
    return folder


def build_schemas(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the schema of each kind in an OpenAPI v3 document, by the name of its file."""
    definitions = document.get("components", {}).get("schemas", {})
    found = {}
    for name, definition in definitions.items():
        for kind in definition.get("x-kubernetes-group-version-kind", ()):
            needed = _collect(name, definitions, {})
            # Of the core's kinds, which have no group, kubeconform takes the version for one.
            file = f"{kind['group'] or kind['version']}_{kind['version']}_{kind['kind'].lower()}.json"
            found[file] = {"$ref": f"#/definitions/{name}", "definitions": needed}
    return found


def _collect(name: str, definitions: dict[str, Any], needed: dict[str, Any]) -> dict[str, Any]:
    """Add the definition ``name``, made strict, and all that it refers to."""
    if name not in needed:
        needed[name] = {}
        needed[name] = _make_strict(definitions[name], definitions, needed)
    return needed


def _make_strict(node: Any, definitions: dict[str, Any], needed: dict[str, Any]) -> Any:  # noqa: ANN401
    """Return a schema that refuses properties that it doesn't name."""
    if isinstance(node, list):
        return [_make_strict(each, definitions, needed) for each in node]
    if not isinstance(node, dict):
        return node
    if isinstance(reference := node.get("$ref"), str):
        name = reference.removeprefix(_REFERENCE)
        _collect(name, definitions, needed)
        return {"$ref": f"#/definitions/{name}"}
    strict = {key: _make_strict(node[key], definitions, needed) for key in node.keys() - {"description", "default", "properties"}}
    if "properties" in node:
        # By name, not as one schema: a property may itself be called `properties` or `default`.
        strict["properties"] = {name: _make_strict(each, definitions, needed) for name, each in node["properties"].items()}
        if not node.get("x-kubernetes-preserve-unknown-fields"):
            strict.setdefault("additionalProperties", False)
    return strict


def _download(version: str, scratch: Path) -> Path:
    """Fetch the module into ``scratch`` and return its folder of OpenAPI documents."""
    env = {**os.environ, "GOMODCACHE": str(scratch / "modules"), "GOFLAGS": "-modcacherw", "GOWORK": "off", "GOTOOLCHAIN": "local"}
    argv = [ensure_go(), "mod", "download", "-json", f"k8s.io/kubernetes@{version}"]
    spoken = subprocess.run(argv, cwd=scratch, env=env, capture_output=True, text=True, timeout=_DOWNLOAD_TIMEOUT, check=False)
    answer = json.loads(spoken.stdout or "{}")
    if spoken.returncode != 0 or "Dir" not in answer:
        raise DevClusterError(f"schemas of Kubernetes {version}: {answer.get('Error') or spoken.stderr.strip()}")
    if answer["Sum"] != RELEASES.get(version):
        raise DevClusterError(f"schemas of Kubernetes {version}: the module's hash is {answer['Sum']}, not {RELEASES.get(version)!r}")
    return Path(answer["Dir"]) / "api" / "openapi-spec" / "v3"
