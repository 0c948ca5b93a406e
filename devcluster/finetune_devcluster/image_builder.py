"""The project's images, built by its Dockerfile with buildah and kept as OCI layouts that a node takes in seconds.

An image is named by a hash of everything that it is made of, so a tree that has not changed is not built again. What a
build needs lies in the cache: a storage of buildah's own (whose layers make the next build short), the base image, and one
layout for each image. Layouts share the files of equal layers by hard links, and so does the node's image store.
"""

import argparse
import contextlib
import hashlib
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from finetune_devcluster.base_image import compute_base_reference, ensure_base_image
from finetune_devcluster.buildah import Buildah, copy_image
from finetune_devcluster.cluster import Cluster
from finetune_devcluster.errors import DevClusterError
from finetune_devcluster.files import hold_lock
from finetune_devcluster.paths import REPOSITORY_ROOT, compute_cache_root
from finetune_devcluster.room import require_room

TARGETS = ("operator", "trainer")

_SOURCES = (
    "Dockerfile",
    ".dockerignore",
    "pyproject.toml",
    "uv.lock",
    "README.md",
    "LICENSE",
    "api/finetune_api",
    "operator/finetune_operator",
    "trainer/finetune_trainer",
    "sdk/finetune_sdk",
    "cli/finetune_cli",
)
_VERSION = "0.0.0.dev0"
"""Of images that no release is made of; what they are made of follows it."""
_LOCK_TIMEOUT = 3600.0
_KEPT_LAYOUTS = 2
_STORAGE_LIMIT = 10 << 30
"""Bytes of buildah's storage above which older images go: one generation of dependencies fits."""
_FIRST_BUILD = 23 << 30
"""Bytes that the first build takes while the trainer's largest layer is written: it is there three times then. Measured: 22 GiB."""
_PASSED_ON = (
    "UV_DEFAULT_INDEX",
    "UV_INDEX",
    "UV_INDEX_URL",
    "UV_EXTRA_INDEX_URL",
    "PIP_INDEX_URL",
    "PIP_EXTRA_INDEX_URL",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "no_proxy",
)
"""Variables of this process that say where packages come from; they reach the build as a secret, not as a layer."""


@dataclass(frozen=True)
class Image:
    """A built image."""

    target: str
    reference: str
    """Its name, with a hash of its contents as the tag: ``localhost/finetune-operator:1f0c…``."""
    layout: Path
    """An OCI layout with uncompressed layers, for `Cluster.load_image`."""
    built: bool
    """False where it was there already."""


def compute_key(root: Path, target: str, base: str) -> str:
    """Return 12 hexadecimal characters that change with anything that the image of `target` is made of."""
    digest = hashlib.sha256(f"{target}\0{base}\0".encode())
    for path in _list_sources(root):
        executable = "x" if path.stat().st_mode & 0o100 else "-"
        digest.update(f"{path.relative_to(root)}\0{executable}\0{path.stat().st_size}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def build_reference(target: str, key: str) -> str:
    """Return the name of an image."""
    return f"localhost/finetune-{target}:{key}"


def ensure_images(targets: Iterable[str] = TARGETS, root: Path = REPOSITORY_ROOT) -> dict[str, Image]:
    """Return the image of each target, built if it is not there. Builds of one machine wait for each other.

    Raises:
        DevClusterError: an image cannot be built here; the message has the end of the build's output.
    """
    wanted = list(targets)
    if unknown := set(wanted) - set(TARGETS):
        raise DevClusterError(f"no such image: {', '.join(sorted(unknown))} (there are {', '.join(TARGETS)})")
    found = {target: _find(root, target) for target in wanted}
    if all(image for image in found.values()):
        return {target: image for target, image in found.items() if image}
    require_room_for_images()
    with hold_lock(_folder() / ".lock", _LOCK_TIMEOUT, "building images"):
        return {target: _find(root, target) or _build(root, target) for target in wanted}


def require_room_for_images() -> None:
    """Fail where the images were never built, and the disk has not the room for that.

    Raises:
        DevClusterError: the message says how much is missing, and what to do.
    """
    if not any((_folder() / "layouts").glob("finetune-trainer-*")):
        require_room(_folder(), _FIRST_BUILD, "the first build of the images")


def load_images(cluster: Cluster, targets: Iterable[str] = TARGETS, root: Path = REPOSITORY_ROOT) -> dict[str, str]:
    """Build the images of the targets if need be, load them into the cluster's node, and return their names.

    Raises:
        DevClusterError: an image cannot be built or loaded.
    """
    images = ensure_images(targets, root)
    for image in images.values():
        started = time.monotonic()
        cluster.load_image(image.layout)
        _say(f"image {image.reference}: in the node after {time.monotonic() - started:.1f} s")
    _remove_stale(cluster)
    return {target: image.reference for target, image in images.items()}


def push_images(registry: str, targets: Iterable[str] = TARGETS, root: Path = REPOSITORY_ROOT) -> dict[str, str]:
    """Build the images if need be, push them to `registry` (host and path), and return their names there.

    The registry's credentials are those of `skopeo login`. Layers that it has are not sent again.

    Raises:
        DevClusterError: an image cannot be built, or the registry does not take it.
    """
    references = {}
    for target, image in ensure_images(targets, root).items():
        references[target] = f"{registry.rstrip('/')}/{image.reference.removeprefix('localhost/')}"
        source = f"oci:{image.layout}:{image.reference}"
        copy_image(source, f"docker://{references[target]}", f"pushing {references[target]}", _folder())
    return references


def _remove_stale(cluster: Cluster) -> None:
    """Remove from the node the project's images that the cache keeps no longer; running pods are not touched by it."""
    ours = tuple(build_reference(target, "") for target in TARGETS)
    stale = [name for name in cluster.list_images() if name.startswith(ours) and not _layout_of(name).exists()]
    if stale:
        with contextlib.suppress(DevClusterError):  # they only take room
            cluster.remove_images(stale)


def build_environment_file(environ: Mapping[str, str]) -> str:
    """Return the build's secret `environment`: shell assignments that say where packages come from."""
    return "".join(f"{name}={shlex.quote(environ[name])}\n" for name in _PASSED_ON if environ.get(name))


def _find(root: Path, target: str) -> Image | None:
    reference = build_reference(target, compute_key(root, target, _base_description()))
    layout = _layout_of(reference)
    if not (layout / "index.json").exists():
        return None
    with contextlib.suppress(OSError):
        os.utime(layout)  # the newest are kept
    return Image(target, reference, layout, built=False)


def _build(root: Path, target: str) -> Image:
    buildah = Buildah(_folder())
    try:
        return _build_with(buildah, root, target)
    finally:
        buildah.release()


def _build_with(buildah: Buildah, root: Path, target: str) -> Image:
    started = time.monotonic()
    buildah.clean()
    base = os.environ.get("FINETUNE_BASE_IMAGE") or ensure_base_image(buildah)
    # Counted before the build: what changes while it runs belongs to the next one.
    reference = build_reference(target, compute_key(root, target, _base_description()))
    _say(f"image {reference}: building from {base}")
    version = f"{_VERSION}+tree.{reference.rpartition(':')[2]}"
    arguments = ["--target", target, "--build-arg", f"BASE_IMAGE={base}", "--build-arg", f"VERSION={version}"]
    arguments += [*build_environment_switches(buildah), *_mount_package_cache()]
    buildah.build(root, reference, arguments)
    layout = _write_layout(buildah, reference)
    buildah.prune(reference, _STORAGE_LIMIT)
    _say(f"image {reference}: built after {time.monotonic() - started:.1f} s")
    return Image(target, reference, layout, built=True)


def build_environment_switches(buildah: Buildah) -> list[str]:
    """Return the switches by which the build learns of indexes, proxies and authorities, with nothing of it in the image."""
    words = []
    if text := build_environment_file(os.environ):
        path = buildah.temporary / "environment"
        path.touch(mode=0o600)
        path.write_text(text)
        words += ["--secret", f"id=environment,src={path}"]
    authorities = os.environ.get("SSL_CERT_FILE", "")
    if authorities and Path(authorities).is_file():
        words += ["--secret", f"id=ca-certificates,src={authorities}", "--build-arg", "SSL_CERT_FILE=/run/secrets/ca-certificates"]
    return words


def _mount_package_cache() -> list[str]:
    """Return the switches that give uv in the build the wheels that uv has on this machine."""
    uv = shutil.which("uv")
    if uv is None:
        return []
    spoken = subprocess.run([uv, "cache", "dir"], capture_output=True, text=True, timeout=30, check=False)
    cache = spoken.stdout.strip()
    if spoken.returncode != 0 or not Path(cache).is_dir():
        return []
    return ["--volume", f"{cache}:/var/cache/uv-of-host", "--build-arg", "UV_CACHE_DIR=/var/cache/uv-of-host"]


def _write_layout(buildah: Buildah, reference: str) -> Path:
    """Write the image as a layout, whole or not at all; only layers that no kept layout has are written."""
    layout = _layout_of(reference)
    part = layout.with_name(f".{layout.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    blobs = part / "blobs" / "sha256"
    blobs.mkdir(parents=True)
    for blob in layout.parent.glob("[!.]*/blobs/sha256/*"):
        with contextlib.suppress(FileExistsError):
            os.link(blob, blobs / blob.name)
    buildah.export(reference, part)
    used = _list_blobs(part)
    for blob in blobs.iterdir():
        if blob.name not in used:
            blob.unlink()
    shutil.rmtree(layout, ignore_errors=True)
    part.rename(layout)
    _remove_old_layouts(layout)
    return layout


def _list_blobs(layout: Path) -> set[str]:
    """Return the names of the blobs that a layout's index leads to."""
    used = set()
    for entry in json.loads((layout / "index.json").read_text())["manifests"]:
        name = entry["digest"].removeprefix("sha256:")
        manifest = json.loads((layout / "blobs" / "sha256" / name).read_text())
        used |= {name, *(each["digest"].removeprefix("sha256:") for each in (manifest["config"], *manifest["layers"]))}
    return used


def _remove_old_layouts(newest: Path) -> None:
    prefix = newest.name.rsplit("-", 1)[0]
    layouts = sorted(newest.parent.glob(f"{prefix}-*"), key=lambda path: path.stat().st_mtime, reverse=True)
    for layout in [each for each in layouts if each != newest][_KEPT_LAYOUTS - 1 :]:
        shutil.rmtree(layout, ignore_errors=True)


def _base_description() -> str:
    return os.environ.get("FINETUNE_BASE_IMAGE") or compute_base_reference()


def _list_sources(root: Path) -> list[Path]:
    found: list[Path] = []
    for name in _SOURCES:
        path = root / name
        if path.is_dir():
            found += [each for each in path.rglob("*") if each.is_file() and "__pycache__" not in each.parts]
        else:
            found.append(path)
    return sorted(found)


def _layout_of(reference: str) -> Path:
    name = reference.removeprefix("localhost/").replace(":", "-")
    return _folder() / "layouts" / name


def _folder() -> Path:
    return compute_cache_root() / "images"


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Build images, and load or push them where asked. Prints each target and the name of its image."""
    parser = argparse.ArgumentParser(prog="python -m finetune_devcluster.image_builder", description="Build the project's images.")
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"which of {', '.join(TARGETS)} (default: all)")
    parser.add_argument("--load", metavar="CLUSTER", help="load them into the node of this cluster")
    parser.add_argument("--push", metavar="REGISTRY", help="push them to this registry (host and path)")
    options = parser.parse_args(arguments)
    targets = options.targets or TARGETS
    try:
        references = {target: image.reference for target, image in ensure_images(targets).items()}
        if options.load:
            load_images(Cluster.attach(options.load), targets)
        if options.push:
            references = push_images(options.push, targets)
    except DevClusterError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for target, reference in references.items():
        print(f"{target}\t{reference}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
