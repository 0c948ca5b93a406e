"""buildah, with a storage of its own in the cache and its progress on the terminal."""

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from finetune_devcluster.errors import DevClusterError
from finetune_devcluster.namespaces import run
from finetune_devcluster.progress import run_shown


class Buildah:
    """buildah over one folder. Two processes must not build in it at the same time: hold a lock."""

    def __init__(self, folder: Path) -> None:
        """Use the storage in `folder`.

        Raises:
            DevClusterError: buildah is not installed, or this is not root.
        """
        program = shutil.which("buildah")
        if program is None:
            raise DevClusterError("buildah is not installed: `python -m finetune_devcluster packages` says how to install it")
        if os.geteuid() != 0:
            raise DevClusterError("images are built as root here; run as root, or build with Docker (see the Dockerfile) and push")
        self.folder = folder
        self.temporary = folder / "tmp"
        self.temporary.mkdir(parents=True, exist_ok=True)
        self._words = [program, f"--root={folder / 'storage'}", f"--runroot={folder / 'run'}"]
        self._driver = self._find_driver()
        self._words.append(f"--storage-driver={self._driver}")

    def has(self, reference: str) -> bool:
        """Tell whether the storage has an image of that name."""
        return self._try(["images", "--quiet", reference]).returncode == 0

    def clean(self) -> None:
        """Remove what a build that died has left."""
        self._run(["rm", "--all"])
        # What a killed build had mounted (the packages' cache, /dev) must not be deleted along with its folder.
        for point in reversed(list_mounts(Path("/proc/self/mountinfo").read_text(), self.temporary)):
            run(["umount", "--lazy", point])
        for path in self.temporary.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    def release(self) -> None:
        """Undo the mount of its storage over itself that buildah leaves behind; the next build makes it anew."""
        for point in reversed(list_mounts(Path("/proc/self/mountinfo").read_text(), self.folder / "storage")):
            subprocess.run(["umount", point], capture_output=True, timeout=30, check=False)

    def prune(self, kept: str, limit: int) -> None:
        """Where the storage has more than `limit` bytes, remove the older images of `kept`'s name and what only they needed."""
        storage = self.folder / "storage"
        measured = subprocess.run(["du", "-sx", "--block-size=1", str(storage)], capture_output=True, text=True, timeout=300, check=False)
        if not measured.stdout or int(measured.stdout.split()[0]) <= limit:
            return
        listed = self._run(["images", "--format", "{{.Name}}:{{.Tag}}"]).split()
        older = [name for name in listed if name != kept and name.rsplit(":", 1)[0] == kept.rsplit(":", 1)[0]]
        if older:
            self._run(["rmi", *older], timeout=600)
        self._run(["rmi", "--prune"], timeout=600)

    def import_base(self, archive: Path, reference: str, architecture: str | None = None) -> None:
        """Make an image of one layer from the archive of a root file system, by default one of this machine's architecture."""
        container = self._run(["from", *([f"--arch={architecture}"] if architecture else []), "scratch"]).strip()
        try:
            self._run(["add", "--quiet", container, str(archive), "/"], timeout=600)
            self._run(["config", "--env", "PATH=/usr/local/bin:/usr/bin:/bin", container])
            self._run(["commit", "--quiet", container, reference], timeout=600)
        finally:
            self._try(["rm", container])

    def join(self, reference: str, images: Sequence[str]) -> None:
        """Give images of several architectures one name."""
        self._run(["manifest", "create", reference, *images])

    def talk(self, reference: str, words: Sequence[str]) -> str:
        """Run a program in a container of an image and return what it prints.

        Raises:
            DevClusterError: it failed; the message has what it said.
        """
        container = self._run(["from", "--pull=false", reference]).strip()
        try:
            return self._run(["run", "--isolation=chroot", container, "--", *words], timeout=600)
        finally:
            self._try(["rm", container])

    def build(self, context: Path, reference: str, arguments: Sequence[str]) -> None:
        """Build an image by the Dockerfile of `context`; layers that the storage has are taken from there.

        Raises:
            DevClusterError: the build failed; the message has the end of its output.
        """
        words = ["bud", "--isolation=chroot", "--network=host", "--layers", "--pull=false", f"--tag={reference}", *arguments, str(context)]
        run_shown([*self._words, *words], reference.rsplit("/", 1)[-1], self.temporary)

    def export(self, reference: str, layout: Path) -> None:
        """Write an image into an OCI layout, its layers uncompressed; layers that the layout has are not written again.

        By skopeo: buildah itself compresses the layers of a layout, which costs minutes here and again in the node.

        Raises:
            DevClusterError: skopeo is missing or failed.
        """
        source = f"containers-storage:[{self._driver}@{self.folder / 'storage'}+{self.folder / 'run'}]{reference}"
        copy_image(source, f"oci:{layout}:{reference}", f"writing {reference.rsplit('/', 1)[-1]}", self.temporary)

    def _find_driver(self) -> str:
        """Return overlay where the kernel and the file system allow it, else vfs, which copies every layer."""
        probe = [*self._words, "--storage-driver=overlay", "images", "--quiet"]
        spoken = subprocess.run(probe, capture_output=True, timeout=60, check=False)
        return "overlay" if spoken.returncode == 0 else "vfs"

    def _try(self, words: Sequence[str], timeout: float = 120) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*self._words, *words],
            capture_output=True,
            text=True,
            timeout=timeout,
            env={**os.environ, "TMPDIR": str(self.temporary)},
            check=False,
        )

    def _run(self, words: Sequence[str], timeout: float = 120) -> str:
        spoken = self._try(words, timeout)
        if spoken.returncode != 0:
            raise DevClusterError(f"buildah {' '.join(words)}: {spoken.stderr.strip()[-2000:]}")
        return spoken.stdout


def list_mounts(mountinfo: str, folder: Path) -> list[str]:
    """Return the mount points below a folder, in the order in which they were mounted."""
    points = [re.sub(r"\\(\d{3})", lambda octal: chr(int(octal[1], 8)), line.split()[4]) for line in mountinfo.splitlines()]
    return [point for point in points if point.startswith(f"{folder}/")]


def copy_image(source: str, target: str, doing: str, temporary: Path) -> None:
    """Copy an image between a storage, a layout (`oci:…`) and a registry (`docker://…`).

    Raises:
        DevClusterError: skopeo is missing or failed; the message has its words.
    """
    program = shutil.which("skopeo")
    if program is None:
        raise DevClusterError("skopeo is not installed: `python -m finetune_devcluster packages` says how to install it")
    # The policy asks for signatures; of images that were built a moment ago, nobody has made any.
    flags = ["--insecure-policy", "copy", "--dest-oci-accept-uncompressed-layers"]
    if target.startswith(("docker://localhost:", "docker://127.0.0.1:")):
        flags.append("--dest-tls-verify=false")  # as Docker does for a registry on this machine
    run_shown([program, *flags, source, target], doing, temporary)
