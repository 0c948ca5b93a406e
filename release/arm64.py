"""``python -m release.arm64``: the operator's image built for arm64 on a machine of another architecture, and its program run, under QEMU.

For machines like the development cluster's: Debian, root, buildah, mmdebstrap; besides those, Debian's `qemu-user-static` and
`arch-test`. The storage it builds in is its own and goes at the end, the base of each architecture stays in the cache. What it tells the
kernel of arm64's programs it takes back.
"""

import contextlib
import hashlib
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from finetune_devcluster.base_image import build_recipe
from finetune_devcluster.buildah import Buildah
from finetune_devcluster.errors import DevClusterError
from finetune_devcluster.image_builder import build_environment_switches
from finetune_devcluster.paths import compute_cache_root
from finetune_devcluster.progress import run_shown
from release.version import ROOT, read_version

EMULATOR: Final = "qemu-aarch64-static"
HANDLERS: Final = Path("/proc/sys/fs/binfmt_misc")
_HANDLER: Final = "finetune-aarch64"
_MAGIC: Final = r"\x7f\x45\x4c\x46\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00"
"""The head of an ELF program for aarch64, 64 bits, little-endian."""
_MASK: Final = r"\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff"
_BASE: Final = "localhost/finetune-base"
_IMAGE: Final = "localhost/finetune-operator:arm64"
_TALK: Final = """
import importlib, platform
for name in ("kopf", "aiohttp", "pydantic_core", "cryptography", "yaml", "finetune_api.resource", "finetune_operator.main"):
    importlib.import_module(name)
print(platform.machine())
"""


@contextlib.contextmanager
def emulated() -> Iterator[None]:
    """Let the kernel run arm64's programs by QEMU, for as long as this lasts.

    :raises DevClusterError: QEMU is not installed, or the kernel has no binfmt_misc.
    """
    program = shutil.which(EMULATOR)
    if program is None or shutil.which("arch-test") is None:
        raise DevClusterError(f"{EMULATOR} or arch-test is not installed: apt-get install qemu-user-static arch-test")
    with contextlib.ExitStack() as undo:
        if not (HANDLERS / "register").exists():
            _run("mount", "-t", "binfmt_misc", "binfmt_misc", str(HANDLERS))
            undo.callback(_run, "umount", str(HANDLERS))
        if not any("aarch64" in handler.name for handler in HANDLERS.iterdir()):
            # F: opened once, so that it works where the file can't be seen; C and O: with the rights and the file of the program itself.
            (HANDLERS / "register").write_text(f":{_HANDLER}:M::{_MAGIC}:{_MASK}:{program}:OCF")
            undo.callback((HANDLERS / _HANDLER).write_text, "-1")
        yield


def build(folder: Path) -> Buildah:
    """Build the image in a storage in `folder`."""
    buildah = Buildah(folder)
    # The stages that run on the builder's architecture want a base of that one, by the same name.
    for architecture in ("amd64", "arm64"):
        buildah.import_base(_ensure_archive(architecture), f"{_BASE}-{architecture}", architecture)
    buildah.join(_BASE, [f"{_BASE}-amd64", f"{_BASE}-arm64"])
    arguments = ["--platform=linux/arm64", "--target=operator", f"--build-arg=BASE_IMAGE={_BASE}", f"--build-arg=VERSION={read_version()}"]
    buildah.build(ROOT, _IMAGE, [*arguments, *build_environment_switches(buildah)])
    return buildah


def _ensure_archive(architecture: str) -> Path:
    """Return the archive of Debian with Python for an architecture, kept in the cache: under an emulator it takes minutes."""
    recipe = build_recipe("")
    key = hashlib.sha256("\0".join(recipe).encode()).hexdigest()[:12]
    archive = compute_cache_root() / "images" / f"base-{architecture}-{key}.tar"
    if not archive.exists():
        archive.parent.mkdir(parents=True, exist_ok=True)
        part = archive.with_name(f".{archive.name}.part")
        words = ["mmdebstrap", f"--architectures={architecture}", *(str(part) if word == "-" else word for word in recipe)]
        try:
            run_shown(words, f"base for {architecture}", archive.parent)
            part.replace(archive)
        finally:
            part.unlink(missing_ok=True)
    return archive


def main() -> int:
    """Build it, run it, and say what came of it."""
    started = time.monotonic()
    try:
        compute_cache_root().mkdir(parents=True, exist_ok=True)
        with emulated(), tempfile.TemporaryDirectory(dir=compute_cache_root(), prefix="arm64-") as folder:
            buildah = build(Path(folder))
            try:
                said = buildah.talk(_IMAGE, ["/opt/finetune/bin/python", "-c", _TALK]).strip()
                usage = buildah.talk(_IMAGE, ["finetune-operator", "--help"])
            finally:
                buildah.release()
    except DevClusterError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    if said != "aarch64" or "usage:" not in usage:
        sys.stderr.write(f"error: the image's programs said {said!r} and {usage!r}\n")
        return 1
    sys.stdout.write(f"linux/arm64: built and run after {time.monotonic() - started:.0f} s; the operator imports all it needs\n")
    return 0


def _run(*words: str) -> None:
    spoken = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    if spoken.returncode != 0:
        raise DevClusterError(f"{' '.join(words)}: {spoken.stderr.strip()}")


if __name__ == "__main__":
    sys.exit(main())
