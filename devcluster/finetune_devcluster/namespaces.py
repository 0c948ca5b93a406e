"""The namespaces that a node's cluster lives in: network, mounts and processes of its own.

Everything that the cluster does to routes, packet filters, mounts and processes, it does in there. The first process of
the process namespace holds all of it: when that one ends, the kernel ends every other and takes the rest away.
"""

import contextlib
import functools
import ipaddress
import json
import shlex
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

from finetune_devcluster import mount_points
from finetune_devcluster.errors import DevClusterError
from finetune_devcluster.node_config import NodeNetwork
from finetune_devcluster.processes import ProcessRecord, observe_start_ticks, wait_until
from finetune_devcluster.supervisor import NAMESPACE, Supervisor

BOUND_FOLDERS = {
    "/var/lib/kubelet": "kubelet",
    "/var/lib/cni": "cni",
    "/var/log/pods": "pod-logs",
    "/var/log/containers": "container-logs",
}
"""Folders that kubelet and the network plugins insist on, and those of the state folder that they are given for it."""

_CGROUPS = Path("/sys/fs/cgroup")


def start_namespaces(supervisor: Supervisor, init: Path) -> int:
    """Make the namespaces, held by `init` as their first process, and return its pid."""
    argv = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--propagation=private"]
    outer = supervisor.start("unshare", [*argv, str(init)])
    found: list[int] = []

    def forked() -> bool:
        found[:] = [pid for pid in observe_children(outer.pid) if _reads(f"/proc/{pid}/comm") == init.name]
        return bool(found)

    supervisor.wait("namespaces made", forked, 10, ["unshare"])
    ticks = observe_start_ticks(found[0])
    if ticks is None:
        raise DevClusterError("the first process of the namespaces ended at once")
    supervisor.record(ProcessRecord(NAMESPACE, found[0], ticks, (), "", {}))
    return found[0]


def connect(pid: int, network: NodeNetwork) -> None:
    """Lay the cable between the machine and the network namespace of process `pid`."""
    run(["ip", "link", "add", network.interface, "type", "veth", "peer", "name", "eth0", "netns", str(pid)])
    run(["ip", "address", "add", f"{network.host_address}/{network.prefix}", "dev", network.interface])
    run(["ip", "link", "set", network.interface, "up"])
    run_inside(
        pid,
        f"ip link set lo up; ip address add {network.address}/{network.prefix} dev eth0; ip link set eth0 up; "
        "echo 1 >/proc/sys/net/ipv4/ip_forward",
    )


def mount_folders(pid: int, folder: Path, nameserver: str) -> None:
    """Give the cluster its own /run, its own name server and its own folders."""
    for source in BOUND_FOLDERS.values():
        (folder / source).mkdir(parents=True, exist_ok=True)
    resolver = folder / "resolv.conf"
    resolver.write_text(f"nameserver {nameserver}\n")
    quoted = shlex.quote(str(folder))
    binds = "; ".join(f"mount --bind {quoted}/{source} {target}" for target, source in BOUND_FOLDERS.items())
    # On machines with systemd-resolved, /etc/resolv.conf is a link into /run, which is empty by now.
    with mount_points.made(list(BOUND_FOLDERS)):
        run_inside(
            pid,
            "mount --make-rshared /; mount -t tmpfs -o mode=755 tmpfs /run; mkdir -p /run/containerd /run/cni /run/netns; "
            f"{binds}; real=$(readlink -m /etc/resolv.conf); "
            'case "$real" in /run/*) mkdir -p "$(dirname "$real")"; touch "$real";; esac; '
            f'mount --bind {shlex.quote(str(resolver))} "$real"',
        )


def make_cgroups(name: str) -> str:
    """Make the cgroup that all pods of the cluster go into, in every hierarchy, and return its path."""
    for folder in _find_hierarchies():
        if folder == _CGROUPS:
            # In version 2 a group has only what its parent passes on; on most machines it passes on all of these.
            for controller in ("cpuset", "cpu", "io", "memory", "pids"):
                with contextlib.suppress(OSError):
                    (folder / "cgroup.subtree_control").write_text(f"+{controller}")
        group = folder / name
        group.mkdir(exist_ok=True)
        for setting in ("cpuset.cpus", "cpuset.mems"):
            # Before version 2, a new cpuset is empty and takes no process.
            if (group / setting).exists() and not (_CGROUPS / "cgroup.controllers").exists():
                (group / setting).write_text((folder / setting).read_text())
    return f"/{name}"


def remove_cgroups(name: str) -> None:
    """Remove the cgroup and those below it; their processes have ended."""
    for folder in _find_hierarchies():
        group = folder / name
        if not group.exists():
            continue
        nested = sorted((each for each in group.rglob("*") if each.is_dir()), key=lambda each: -len(each.parts))
        for each in (*nested, group):
            # The kernel lets go of a group a moment after its last process.
            if not wait_until(functools.partial(_removed, each), 5, interval=0.02):
                raise DevClusterError(f"cgroup {each} cannot be removed: a process is still in it")


def remove_interface(name: str) -> None:
    """Remove the machine's end of the cable; it is gone already when its namespace is."""
    if (Path("/sys/class/net") / name).exists():
        subprocess.run(["ip", "link", "delete", name], capture_output=True, timeout=30, check=False)


def observe_networks() -> list[ipaddress.IPv4Network]:
    """Return the networks that the machine's routes know, the default route left out."""
    routes = json.loads(run(["ip", "-json", "-4", "route", "show", "table", "all"]) or "[]")
    networks = []
    for route in routes:
        with contextlib.suppress(ValueError):
            networks.append(ipaddress.IPv4Network(route["dst"], strict=False))
    return networks


def observe_children(pid: int) -> list[int]:
    """Return the processes whose parent is `pid`."""
    found = []
    for entry in Path("/proc").iterdir():
        stat = _reads(str(entry / "stat")) if entry.name.isdigit() else None
        if stat and int(stat[stat.rindex(")") + 2 :].split()[1]) == pid:
            found.append(int(entry.name))
    return found


def build_entry(pid: int) -> list[str]:
    """Return the words that, put before a command, run it inside the namespaces of `pid`."""
    return ["nsenter", f"--target={pid}", "--net", "--mount", "--pid"]


def run_inside(pid: int, script: str) -> str:
    """Run a shell script inside the namespaces of `pid` and return its output; the first failure ends it."""
    return run([*build_entry(pid), "sh", "-e", "-c", script])


def run(argv: Iterable[str], timeout: float = 30) -> str:
    """Run a command and return its output.

    Raises:
        DevClusterError: it failed; the message has what it said.
    """
    words = list(argv)
    if shutil.which(words[0]) is None:
        raise DevClusterError(f"{words[0]} is not installed: run `python -m finetune_devcluster packages`")
    spoken = subprocess.run(words, capture_output=True, text=True, timeout=timeout, check=False)
    if spoken.returncode != 0:
        raise DevClusterError(f"{shlex.join(words)}: {spoken.stderr.strip() or f'exit {spoken.returncode}'}")
    return spoken.stdout


def _find_hierarchies() -> list[Path]:
    if (_CGROUPS / "cgroup.controllers").exists():
        return [_CGROUPS]
    return [each for each in _CGROUPS.iterdir() if each.is_dir() and not each.is_symlink()]


def _removed(group: Path) -> bool:
    try:
        group.rmdir()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def _reads(path: str) -> str | None:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return None
