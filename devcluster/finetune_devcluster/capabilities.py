"""What this machine can run of a development cluster, and why not the rest, in words."""

import os
import platform
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from finetune_devcluster.errors import DevClusterError
from finetune_devcluster.node_config import CNI_FOLDERS
from finetune_devcluster.state import Mode

PROGRAMS = {
    "runc": "runc",
    "iptables": "iptables",
    "ip": "iproute2",
    "nsenter": "util-linux",
    "unshare": "util-linux",
    "mount": "mount",
}
"""Programs that a node needs, and Debian's package of each."""

IMAGE_PROGRAMS = {"buildah": "buildah", "skopeo": "skopeo", "mmdebstrap": "mmdebstrap"}
"""Programs that make container images without a container engine, and Debian's package of each."""

CNI_PLUGINS = ("ptp", "host-local", "loopback")
CNI_PACKAGE = "containernetworking-plugins"

_PROBE = "ip link add probe0 type veth peer name probe1 && iptables -t nat -N probe && mount -t tmpfs probe /tmp"


@dataclass(frozen=True)
class Machine:
    """What was seen of a machine."""

    system: str
    """The operating system's name, as `uname -s` says it."""
    is_root: bool
    missing_packages: tuple[str, ...]
    """Debian's names of the packages whose programs are not there."""
    has_apt: bool
    namespace_error: str | None
    """Why a network namespace with a cable, address translation and a mount in it could not be made; None when it
    could, or when it was not tried for want of programs or rights."""
    cgroup_error: str | None
    """Why no cgroup could be made; None when it could, or when it was not tried for want of rights."""


@dataclass(frozen=True)
class Capabilities:
    """Whether each mode can run, by the reasons against it: no reason means that it can."""

    control_plane: tuple[str, ...]
    node: tuple[str, ...]
    installable: tuple[str, ...]
    """Debian packages that are missing and that `packages` can install here."""

    @property
    def best_mode(self) -> Mode:
        """The fullest mode that this machine can run."""
        return "process-node" if self.node else "node"

    def describe(self) -> str:
        """Return what can run here and what cannot, in sentences."""
        if self.control_plane:
            return "This machine can run no development cluster: " + "; ".join(self.control_plane) + "."
        if self.node:
            return (
                "This machine can run the control plane, and pods only as local processes (mode process-node), because "
                + "; ".join(self.node)
                + "."
            )
        extra = f", once {', '.join(self.installable)} are installed" if self.installable else ""
        return f"This machine can run the whole cluster, containers too{extra}."


def compute_capabilities(machine: Machine) -> Capabilities:
    """Say what a machine can run."""
    platform_reasons = () if machine.system == "Linux" else (f"its programs are processes of Linux, and this is {machine.system}",)
    node = list(platform_reasons)
    can_install = machine.is_root and machine.has_apt
    if not machine.is_root:
        node.append("a node needs root, to make namespaces, cgroups and mounts")
    if machine.missing_packages and not can_install:
        node.append(f"the programs of these packages are missing: {', '.join(machine.missing_packages)} (Debian's names)")
    if machine.namespace_error:
        node.append(f"network namespaces do not work here: {machine.namespace_error}")
    if machine.cgroup_error:
        node.append(f"cgroups cannot be made here: {machine.cgroup_error}")
    return Capabilities(platform_reasons, tuple(node), machine.missing_packages if can_install else ())


def observe_machine() -> Machine:
    """Look at this machine; what it tries, it takes back."""
    is_root = platform.system() == "Linux" and os.geteuid() == 0
    missing = observe_missing_packages()
    return Machine(
        system=platform.system(),
        is_root=is_root,
        missing_packages=missing,
        has_apt=shutil.which("apt-get") is not None and shutil.which("dpkg") is not None,
        namespace_error=_try_namespaces() if is_root and not missing else None,
        cgroup_error=_try_cgroup() if is_root else None,
    )


def observe_machine_cheaply() -> Machine:
    """Look only at what decides whether a control plane can run."""
    return Machine(platform.system(), is_root=False, missing_packages=(), has_apt=False, namespace_error=None, cgroup_error=None)


def observe_missing_packages() -> tuple[str, ...]:
    """Return Debian's names of the packages whose programs a node needs and this machine lacks."""
    missing = {package for program, package in PROGRAMS.items() if shutil.which(program) is None}
    if not any(all((Path(folder) / each).exists() for each in CNI_PLUGINS) for folder in CNI_FOLDERS):
        missing.add(CNI_PACKAGE)
    return tuple(sorted(missing))


def observe_missing_image_packages() -> tuple[str, ...]:
    """Return Debian's names of the packages that making images needs and this machine lacks."""
    return tuple(sorted(package for program, package in IMAGE_PROGRAMS.items() if shutil.which(program) is None))


def install_packages(*, for_images: bool = False) -> tuple[str, ...]:
    """Install the Debian packages that a node lacks, and return their names; none when nothing is missing.

    Args:
        for_images: those too that making images needs.

    Raises:
        DevClusterError: they cannot be installed here; the message names them.
    """
    missing = observe_missing_packages() + (observe_missing_image_packages() if for_images else ())
    if not missing:
        return ()
    words = " ".join(missing)
    if shutil.which("apt-get") is None:
        raise DevClusterError(
            f"a node needs the programs of these packages (Debian's names): {words}. This is no Debian: install them by "
            "this system's own means"
        )
    if os.geteuid() != 0:
        raise DevClusterError(f"a node needs root anyway; as root, run: apt-get install {words}")
    print(f"installing Debian packages: {words}", flush=True)
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for argv in (
        ["apt-get", "update", "-qq"],
        ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *missing],
    ):
        # Another apt may run, on a machine that has just started above all: it is waited for.
        spoken = subprocess.run(
            [*argv, "-o", "DPkg::Lock::Timeout=300"],
            env=environment,
            capture_output=True,
            text=True,
            timeout=900,
            check=False,
        )
        if spoken.returncode != 0:
            raise DevClusterError(f"{' '.join(argv)} failed: {spoken.stderr.strip()[-1500:]}")
    return missing


def _try_namespaces() -> str | None:
    argv = ["unshare", "--net", "--mount", "--pid", "--fork", "--mount-proc", "sh", "-c", _PROBE]
    try:
        spoken = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return None if spoken.returncode == 0 else spoken.stderr.strip() or f"exit {spoken.returncode}"


def _try_cgroup() -> str | None:
    root = Path("/sys/fs/cgroup")
    folder = root if (root / "cgroup.controllers").exists() else root / "memory"
    probe = folder / f"finetune-dev-probe-{os.getpid()}"
    try:
        probe.mkdir()
        probe.rmdir()
    except OSError as error:
        return str(error)
    return None
