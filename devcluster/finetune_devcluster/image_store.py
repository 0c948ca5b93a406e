"""containerd's folder of images: kept in the cache between clusters, so that an image is loaded once.

Two containerds cannot share a folder, so there are several, and a cluster takes the first that no living cluster has.
"""

import fcntl
import json
import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from finetune_devcluster import image_ledger, images
from finetune_devcluster.binaries import compute_paths
from finetune_devcluster.errors import DevClusterError
from finetune_devcluster.files import hold_lock, write_json
from finetune_devcluster.namespaces import build_entry, run
from finetune_devcluster.paths import compute_cache_root
from finetune_devcluster.processes import ProcessRecord, is_running

_NAMESPACE = "k8s.io"
_FOLDERS = 16
_INGEST_ATTEMPTS = 5
_OVERLAY_MAGIC = "overlay"


def take_store(cluster: Path, holder: ProcessRecord) -> Path:
    """Take a folder for a cluster, which has it for as long as `holder` lives.

    The folder that the same cluster had before comes first, then the one that holds most.

    Args:
        cluster: the cluster's state folder.

    Raises:
        DevClusterError: as many clusters run as there may be folders.
    """
    root = compute_cache_root() / "containerd"
    with hold_lock(root / ".lock", 30, "taking an image store"):
        free = [folder for number in range(_FOLDERS) if _is_free(folder := root / str(number))]
        if not free:
            raise DevClusterError(f"{_FOLDERS} clusters with a node run already: take one down")
        best = max(free, key=lambda folder: (_read_owner(folder)[0] == str(cluster), image_ledger.read_size(folder)))
        write_json(best / "owner.json", {"cluster": str(cluster), "holder": holder.as_json()})
        return best


def find_snapshotter(folder: Path) -> str:
    """Return the snapshotter for a folder: overlayfs, but where the folder itself lies on an overlay, plain copies."""
    kind = run(["stat", "--file-system", "--format=%T", str(folder)]).strip()
    return "native" if _OVERLAY_MAGIC in kind else "overlayfs"


def is_serving(pid: int) -> bool:
    """Tell whether containerd answers inside the namespaces of `pid`."""
    spoken = subprocess.run([*_ctr(pid), "version"], capture_output=True, timeout=30, check=False)
    return spoken.returncode == 0


def remove_containers(pid: int) -> None:
    """Forget the containers of a cluster that has gone; their snapshots go with them."""
    containers = run([*_ctr(pid), "containers", "list", "--quiet"]).split()
    if containers:
        run([*_ctr(pid), "containers", "delete", *containers], timeout=120)


def kill_containers(pid: int) -> None:
    """Kill the processes of all containers, by SIGKILL."""
    for task in run([*_ctr(pid), "tasks", "list", "--quiet"]).split():
        run([*_ctr(pid), "tasks", "kill", "--all", "--signal=SIGKILL", task])


def remove_outdated(pid: int, store: Path) -> None:
    """Remove the images that newer ones of the same repository have taken the place of; no container may be there."""
    outdated = image_ledger.find_outdated(store)
    if outdated:
        images_there = list_images(pid)
        digests = {images_there[name] for name in outdated if name in images_there}
        # The same image also has a name made of its configuration's digest, which would keep it.
        names = [name for name, digest in images_there.items() if name in outdated or (name.startswith("sha256:") and digest in digests)]
        if names:
            remove_images(pid, names)
        image_ledger.forget(store, outdated)


def remove_images(pid: int, names: Iterable[str]) -> None:
    """Remove images by their names; what only they had goes with them."""
    run([*_ctr(pid), "images", "delete", *names], timeout=120)


def list_images(pid: int) -> dict[str, str]:
    """Return the digest of every image by its reference."""
    lines = run([*_ctr(pid), "images", "list"]).splitlines()[1:]
    return {words[0]: words[2] for line in lines if len(words := line.split()) > 2}


def load_archive(pid: int, store: Path, path: Path) -> list[str]:
    """Load an image archive into the node's images and return the names of those images.

    An OCI layout, as a folder or as an uncompressed archive, is loaded the quick way: its layers are put where
    containerd keeps them, by a hard link where the file system is the same, and an image that is there already is left
    as it is. Everything else that containerd reads (Docker's archives, compressed ones) goes through containerd.

    Raises:
        DevClusterError: it is no such archive, or the disk is full; the message has containerd's words.
    """
    if not path.exists():
        raise DevClusterError(f"there is no image archive at {path}")
    try:
        archive = images.ImageArchive(path)
    except images.NotAnImageLayout as error:
        if path.is_dir():
            raise DevClusterError(str(error)) from None
        before = list_images(pid)
        _import(pid, path)
        loaded = sorted(name for name, _ in list_images(pid).items() - before.items())
        image_ledger.record_load(store, [name for name in loaded if not name.startswith("sha256:")], path.stat().st_size)
        return loaded
    names = archive.names
    if not names:
        raise DevClusterError(f"{path} holds no image with a name (annotation org.opencontainers.image.ref.name)")
    size = sum(int(layer["size"]) for layer in archive.list_layers())
    if names.items() <= list_images(pid).items():
        image_ledger.record_load(store, list(names), size)
        return sorted(names)
    with tempfile.NamedTemporaryFile(suffix=".tar") as outline:
        outline.write(archive.build_outline())
        outline.flush()
        # What the outline names is kept from here on: a layer that arrives later is not taken for rubbish.
        _import(pid, Path(outline.name), "--no-unpack")
        for layer in archive.list_layers():
            _add_blob(pid, store, archive, layer)
        _import(pid, Path(outline.name))
    image_ledger.record_load(store, list(names), size)
    return sorted(names)


def _add_blob(pid: int, store: Path, archive: images.ImageArchive, layer: dict[str, Any]) -> None:
    """Put a layer into containerd's content and tell containerd of it, which then asks for none of its bytes.

    What the layer holds is checked when it is unpacked, against the digests in the image's configuration.
    """
    digest, size = layer["digest"], layer["size"]
    if digest in run([*_ctr(pid), "content", "list", "--quiet"]).split():
        return
    algorithm, value = digest.split(":")
    blob = store / "io.containerd.content.v1.content" / "blobs" / algorithm / value
    staged = store / "staged" / value
    staged.parent.mkdir(exist_ok=True)
    words = ["content", "ingest", f"--expected-digest={digest}", f"--expected-size={size}", f"layer-{value}"]
    try:
        archive.write_blob(digest, staged)
        for attempt in range(1, _INGEST_ATTEMPTS + 1):
            # Between the link and the word to containerd, its clean-up may take the blob for rubbish: then once more.
            blob.unlink(missing_ok=True)
            blob.hardlink_to(staged)
            with staged.open("rb") as stream:
                spoken = subprocess.run([*_ctr(pid), *words], stdin=stream, capture_output=True, text=True, timeout=1800, check=False)
            if spoken.returncode == 0 and blob.exists():
                return
            if attempt == _INGEST_ATTEMPTS:
                raise DevClusterError(f"layer {digest} could not be loaded: {spoken.stderr.strip()[-1000:]}")
    finally:
        staged.unlink(missing_ok=True)


def _import(pid: int, archive: Path, *flags: str) -> None:
    # Through a pipe: inside the namespaces some folders of the machine are hidden, and the archive may be in one.
    with archive.open("rb") as stream:
        spoken = subprocess.run(
            [*_ctr(pid), "images", "import", "--local", *flags, "-"],
            stdin=stream,
            capture_output=True,
            text=True,
            timeout=1800,
            check=False,
        )
    if spoken.returncode != 0:
        raise DevClusterError(f"{archive} could not be loaded: {spoken.stderr.strip()[-1000:]}")


def _ctr(pid: int) -> list[str]:
    return [*build_entry(pid), str(compute_paths(["ctr"])["ctr"]), "--namespace", _NAMESPACE]


def _is_free(folder: Path) -> bool:
    _, holder = _read_owner(folder)
    return (holder is None or not is_running(holder)) and not _is_locked(folder)


def _is_locked(folder: Path) -> bool:
    """Tell whether a containerd has the folder's database open, whoever started it."""
    try:
        with (folder / "io.containerd.metadata.v1.bolt" / "meta.db").open("rb") as stream:
            fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def _read_owner(folder: Path) -> tuple[str, ProcessRecord | None]:
    try:
        owner = json.loads((folder / "owner.json").read_text())
        return str(owner["cluster"]), ProcessRecord.from_json(owner["holder"])
    except (OSError, ValueError, KeyError, TypeError):
        return "", None
