"""``python -m release.sbom --to FOLDER``: a bill of materials (CycloneDX 1.5) of each image's Python packages, from uv.lock.

uv writes what the lock knows for every system; what stays is what the image has: packages and wheels for Linux. Same tree, same bytes. The
base image's own packages are not in it: a scanner of images lists those (docs/guide/releasing.md).
"""

import argparse
import json
import os
import subprocess
import sys
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import Distribution
from pathlib import Path
from typing import Any, Final

from packaging.requirements import Requirement

from release.licences import Policy, read_field, read_licence
from release.packages import IMAGES, list_packages
from release.version import ROOT, compute_semantic_version, read_version

PYTHON: Final = "3.12"
"""Python of the images, as the Dockerfile's base has it: the lock may have other versions of a package for others."""
_NAMESPACE: Final = uuid.UUID("5d2c1a36-6a43-5d0b-9d4e-2f6f7a1f8c11")
_SECONDS: Final = 120


def export_lock(image: str, root: Path = ROOT) -> dict[str, Any]:
    """Return what uv says of an image's extras: a CycloneDX document for every system and Python that the lock is for."""
    document: dict[str, Any] = json.loads(_export(image, root, "--format=cyclonedx1.5", "--preview-features=sbom-export"))
    return document


def list_locked(image: str, python: str = PYTHON, machine: str = "x86_64", root: Path = ROOT) -> dict[str, str]:
    """Return the version of each package that the lock has for an image on Linux with this Python and architecture, by name."""
    environment = {"python_version": python, "python_full_version": f"{python}.0", "sys_platform": "linux", "platform_system": "Linux"}
    environment |= {"os_name": "posix", "platform_machine": machine, "implementation_name": "cpython"}
    text = _export(image, root, "--format=requirements.txt", "--no-hashes", "--no-annotate", "--no-header", "--no-emit-project")
    locked = {}
    for line in text.splitlines():
        needed = Requirement(line)
        if needed.marker is None or needed.marker.evaluate(environment):
            locked[needed.name] = str(needed.specifier).removeprefix("==")
    return locked


def _export(image: str, root: Path, *form: str) -> str:
    argv = [str(root / ".tools" / "bin" / "uv"), "export", "--project", str(root), "--frozen", "--no-dev", "--quiet", *form]
    argv += [word for extra in IMAGES[image] for word in ("--extra", extra)]
    return subprocess.run(argv, check=True, stdout=subprocess.PIPE, text=True, timeout=_SECONDS).stdout


def build_bill(
    image: str,
    version: str,
    exported: dict[str, Any],
    locked: Mapping[str, str],
    packages: Mapping[str, Distribution],
    written: datetime,
) -> dict[str, Any]:
    """Return the bill of materials of an image.

    :param exported: of :func:`export_lock`.
    :param locked: of :func:`list_locked`: what of it the image has.
    :param packages: what states the licences; of another version than the image's it does as well.
    :param written: the time that it bears.
    """
    words = Policy.read().words
    components = [
        _build_component(each, packages.get(each["name"]), words)
        for each in exported["components"]
        if locked.get(each["name"]) == each["version"]
    ]
    known = {each["bom-ref"] for each in components} | {exported["metadata"]["component"]["bom-ref"]}
    dependencies = [
        {"ref": each["ref"], "dependsOn": [ref for ref in each.get("dependsOn", ()) if ref in known]}
        for each in exported["dependencies"]
        if each["ref"] in known
    ]
    subject = {
        "type": "container",
        "bom-ref": exported["metadata"]["component"]["bom-ref"],
        "name": f"finetune-{image}",
        "version": version,
        "licenses": [{"expression": "Apache-2.0"}],
    }
    body = {
        "metadata": {
            "timestamp": written.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "tools": exported["metadata"].get("tools", []),
            "component": subject,
        },
        "components": components,
        "dependencies": dependencies,
    }
    serial = uuid.uuid5(_NAMESPACE, json.dumps(body, sort_keys=True))
    return {"bomFormat": "CycloneDX", "specVersion": "1.5", "version": 1, "serialNumber": f"urn:uuid:{serial}", **body}


def _build_component(exported: dict[str, Any], package: Distribution | None, words: Mapping[str, str]) -> dict[str, Any]:
    component: dict[str, Any] = {key: exported[key] for key in ("type", "bom-ref", "name", "version", "purl") if key in exported}
    if package is None:
        pass
    elif expression := read_field(package, "License-Expression"):
        component["licenses"] = [{"expression": expression}]
    elif name := read_licence(package, words):
        component["licenses"] = [{"license": {"name": name}}]
    references = [each for each in exported.get("externalReferences", ()) if _is_for_linux(each["url"])]
    if references:
        component["externalReferences"] = references
    return component


def _is_for_linux(url: str) -> bool:
    name = url.rpartition("/")[2]
    return not name.endswith(".whl") or name.endswith("-any.whl") or "manylinux" in name


def _read_time(root: Path) -> datetime:
    """Return the time of the commit, or what SOURCE_DATE_EPOCH says."""
    stated = os.environ.get("SOURCE_DATE_EPOCH")
    if stated is None:
        argv = ["git", "-C", str(root), "log", "-1", "--format=%ct"]
        stated = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=_SECONDS).stdout.strip() or "0"
    return datetime.fromtimestamp(int(stated), UTC)


def main(arguments: list[str] | None = None) -> int:
    """Write the bill of each image and print where they lie."""
    parser = argparse.ArgumentParser(prog="python -m release.sbom", description="Write each image's bill of materials.")
    parser.add_argument("--to", type=Path, default=Path("dist"), help="folder (default: %(default)s)")
    options = parser.parse_args(arguments)
    version = compute_semantic_version(read_version())
    options.to.mkdir(parents=True, exist_ok=True)
    for image, extras in IMAGES.items():
        bill = build_bill(image, version, export_lock(image), list_locked(image), list_packages(extras), _read_time(ROOT))
        path = options.to / f"finetune-{image}-{version}.cdx.json"
        path.write_text(json.dumps(bill, indent=1) + "\n")
        sys.stdout.write(f"{path}  {len(bill['components'])} packages\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
