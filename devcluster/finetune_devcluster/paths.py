"""Where the development cluster keeps its files: built things in a cache that clones share, state beside the clone."""

import hashlib
import os
import re
from pathlib import Path

from finetune_devcluster.errors import DevClusterError

SOURCE_ROOT = Path(__file__).resolve().parents[1]
"""The `devcluster/` folder of the repository, which also holds the Go modules of the binaries."""

REPOSITORY_ROOT = SOURCE_ROOT.parent

_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?")


def compute_cache_root() -> Path:
    """Return the cache folder: `$FINETUNE_CACHE`, else `$XDG_CACHE_HOME/finetune-operator`, else under `~/.cache`."""
    if own := os.environ.get("FINETUNE_CACHE"):
        return Path(own).expanduser().absolute()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache").absolute() / "finetune-operator"


def compute_state_dir(name: str, state_root: Path | None = None) -> Path:
    """Return the folder of the cluster called `name`: under `state_root`, by default `.dev/` of the repository.

    Raises:
        DevClusterError: the name is no DNS label of at most 32 characters.
    """
    if not _NAME.fullmatch(name):
        raise DevClusterError(f"cluster name {name!r} is not usable: lower-case letters, digits and '-' (inside), at most 32 characters")
    root = state_root or Path(os.environ.get("FINETUNE_DEV_DIR") or REPOSITORY_ROOT / ".dev")
    return root.absolute() / name


def compute_cluster_id(state_dir: Path) -> str:
    """Return 8 hexadecimal characters that differ between clusters of one machine, for interfaces and cgroups."""
    return hashlib.sha256(str(state_dir).encode()).hexdigest()[:8]


def compute_lock_path(state_dir: Path) -> Path:
    """Return the lock of one cluster: in the cache, so that a cluster taken down leaves no file beside its state."""
    return compute_cache_root() / "locks" / f"{compute_cluster_id(state_dir)}.lock"
