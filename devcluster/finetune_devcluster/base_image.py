"""The base image, made from Debian packages: where no image registry can be reached, a package mirror often can."""

import hashlib
import os
import shutil
import sys
from pathlib import Path

from finetune_devcluster.buildah import Buildah
from finetune_devcluster.errors import DevClusterError
from finetune_devcluster.progress import run_shown

_MIRROR = "FINETUNE_DEBIAN_MIRROR"
_SUITE = "bookworm"
_PACKAGES = ("python3", "python3-venv", "ca-certificates")
_LEFT_OUT = ("/usr/share/man/*", "/usr/share/doc/*", "/usr/share/locale/*", "/usr/share/info/*")


def ensure_base_image(buildah: Buildah) -> str:
    """Return the name of the base image in buildah's storage, made if it is not there.

    The mirror is mmdebstrap's default, or the one that `$FINETUNE_DEBIAN_MIRROR` names.

    Raises:
        DevClusterError: mmdebstrap is missing, or failed; the message has its words.
    """
    reference = compute_base_reference()
    if buildah.has(reference):
        return reference
    archive = buildah.folder / f"base-{reference.rsplit(':', 1)[1]}.tar"
    if not archive.exists():
        _make_archive(buildah, build_recipe(os.environ.get(_MIRROR, "")), archive)
    buildah.import_base(archive, reference)
    return reference


def compute_base_reference() -> str:
    """Return the name of the base image, with a hash of its recipe as the tag."""
    recipe = build_recipe(os.environ.get(_MIRROR, ""))
    return f"localhost/finetune-base:{hashlib.sha256(chr(0).join(recipe).encode()).hexdigest()[:12]}"


def build_recipe(mirror: str) -> list[str]:
    """Return mmdebstrap's words, but for the name of the archive that it writes."""
    return [
        "--variant=apt",
        f"--include={','.join(_PACKAGES)}",
        *(f"--dpkgopt=path-exclude={pattern}" for pattern in _LEFT_OUT),
        "--aptopt=Acquire::Languages none",
        "--format=tar",
        _SUITE,
        "-",
        *([mirror] if mirror else []),
    ]


def _make_archive(buildah: Buildah, recipe: list[str], archive: Path) -> None:
    program = shutil.which("mmdebstrap")
    if program is None:
        raise DevClusterError(
            "mmdebstrap is not installed, so no base image can be made from Debian packages: install it "
            "(`python -m finetune_devcluster packages` says how), or name a base image with python3 in FINETUNE_BASE_IMAGE"
        )
    print(f"base image: Debian {_SUITE} with Python, by mmdebstrap (once for this machine)", file=sys.stderr, flush=True)
    part = archive.with_name(f".{archive.name}.part")
    words = [program, *(str(part) if word == "-" else word for word in recipe)]
    try:
        run_shown(words, "mmdebstrap", buildah.temporary)
        part.replace(archive)
    finally:
        part.unlink(missing_ok=True)
