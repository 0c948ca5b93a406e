"""Building the cluster's programs from Go modules, once for all clones of a machine.

A built program lies in the cache under a key made of everything that decides what it is, so a clone with the same
pins finds it, and one with other pins builds its own beside it.
"""

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from finetune_devcluster.errors import DevClusterError
from finetune_devcluster.files import hold_lock
from finetune_devcluster.go_toolchain import ensure_go
from finetune_devcluster.paths import SOURCE_ROOT, compute_cache_root
from finetune_devcluster.room import describe_full_disk

KUBERNETES_VERSION = "v1.35.4"

_BUILD_TIMEOUT = 3600.0
_REPORT_INTERVAL = 10.0
_GO_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "arm64": "arm64"}


@dataclass(frozen=True)
class GoModule:
    """A Go module under `devcluster/binaries/` and the programs that are built from it."""

    name: str
    packages: dict[str, str]
    """Go package of each program, by the program's file name."""
    ldflags: str = "-s -w"
    tags: str = ""
    """Build tags, separated by commas."""

    @property
    def folder(self) -> Path:
        """The module's folder in the repository."""
        return SOURCE_ROOT / "binaries" / self.name


_COMPONENT_VERSION = "k8s.io/component-base/version"
_MAJOR, _MINOR, _ = KUBERNETES_VERSION.removeprefix("v").split(".")

MODULES = (
    GoModule("pause", {"pause": "."}),
    # Without the snapshotters that need a file system or a device of their own.
    GoModule(
        "containerd",
        {name: f"github.com/containerd/containerd/v2/cmd/{name}" for name in ("containerd", "containerd-shim-runc-v2", "ctr")},
        tags="no_btrfs,no_devmapper,no_zfs",
    ),
    GoModule("etcd", {"etcd": "go.etcd.io/etcd/server/v3"}),
    GoModule(
        "kubernetes",
        {
            name: f"k8s.io/kubernetes/cmd/{name}"
            for name in (
                "kube-apiserver",
                "kube-controller-manager",
                "kube-scheduler",
                "kubectl",
                "kubelet",
                "kube-proxy",
            )
        },
        f"-s -w -X {_COMPONENT_VERSION}.gitVersion={KUBERNETES_VERSION}"
        f" -X {_COMPONENT_VERSION}.gitMajor={_MAJOR} -X {_COMPONENT_VERSION}.gitMinor={_MINOR}",
    ),
    GoModule("versitygw", {"versitygw": "github.com/versity/versitygw/cmd/versitygw"}),
    GoModule("coredns", {"coredns": "."}),
    GoModule("gpu-plugin", {"gpu-plugin": "."}),
    GoModule("helm", {"helm": "helm.sh/helm/v3/cmd/helm"}),
    GoModule("probe", {"probe": "."}),
    GoModule("kstatus", {"kstatus": "."}),
    GoModule("kueue", {"kueue": "sigs.k8s.io/kueue/cmd/kueue"}),
    GoModule(
        "kubeflow",
        {"trainer-controller-manager": "github.com/kubeflow/trainer/v2/cmd/trainer-controller-manager", "jobset": "sigs.k8s.io/jobset"},
    ),
    GoModule("coscheduling", {"coscheduling": "sigs.k8s.io/scheduler-plugins/cmd/scheduler"}),
    GoModule(
        "volcano",
        {"vc-scheduler": "volcano.sh/volcano/cmd/scheduler", "vc-controller-manager": "volcano.sh/volcano/cmd/controller-manager"},
    ),
    GoModule("registry", {"registry": "github.com/distribution/distribution/v3/cmd/registry"}),
    GoModule("cosign", {"cosign": "github.com/sigstore/cosign/v3/cmd/cosign"}),
    GoModule("fake-gcs-server", {"fake-gcs-server": "github.com/fsouza/fake-gcs-server"}),
    GoModule("kwok", {"kwok": "sigs.k8s.io/kwok/cmd/kwok"}),
    GoModule("strict-decoder", {"strict-decoder": "."}),
    GoModule("network-policies", {"network-policies": "."}),
    GoModule("kubeconform", {"kubeconform": "github.com/yannh/kubeconform/cmd/kubeconform"}),
    # Without the clouds' service discovery, which is most of it: the tests name their targets.
    GoModule(
        "prometheus", {name: f"github.com/prometheus/prometheus/cmd/{name}" for name in ("prometheus", "promtool")}, tags="remove_all_sd"
    ),
)

CONTROL_PLANE = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubectl")
CONTAINERD = ("containerd", "containerd-shim-runc-v2", "ctr")
NODE = (*CONTROL_PLANE, *CONTAINERD, "kubelet", "kube-proxy", "coredns", "versitygw", "pause", "gpu-plugin")
ALL = (*NODE, "helm", "kstatus", "registry", "fake-gcs-server", "kubeconform", "strict-decoder", "network-policies")


def compute_key(module: GoModule, architecture: str) -> str:
    """Return the cache key of a module's programs: a hash of its sources, its pins, its flags and the architecture."""
    digest = hashlib.sha256(f"{module.ldflags}\0{architecture}\0{module.tags}".encode())
    for path in sorted(module.folder.iterdir()):
        if path.name in ("go.mod", "go.sum") or path.suffix == ".go":
            digest.update(f"{path.name}\0".encode() + path.read_bytes() + b"\0")
    return f"{module.name}-{digest.hexdigest()[:16]}"


def compute_architecture(machine: str) -> str:
    """Return Go's name of a machine's architecture.

    Raises:
        DevClusterError: it is none that the cluster has been built for.
    """
    try:
        return _GO_ARCHITECTURES[machine]
    except KeyError:
        raise DevClusterError(f"no binaries for a {machine} machine: amd64 and arm64 are known") from None


def compute_paths(names: Iterable[str]) -> dict[str, Path]:
    """Return where each program lies in the cache, built or not."""
    architecture = compute_architecture(platform.machine())
    wanted = set(names)
    paths = {
        name: compute_cache_root() / "bin" / compute_key(module, architecture) / name
        for module in MODULES
        for name in module.packages
        if name in wanted
    }
    if unknown := wanted - paths.keys():
        known = [name for module in MODULES for name in module.packages]
        raise DevClusterError(f"no such program: {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    return paths


def ensure_binaries(names: Iterable[str]) -> dict[str, Path]:
    """Return the paths of the programs, building those that the cache lacks and saying so as it goes.

    Raises:
        DevClusterError: Go is not to be had, or a build failed; the message has the compiler's last lines.
    """
    paths = compute_paths(names)
    missing = {name for name, path in paths.items() if not path.exists()}
    if not missing:
        return paths
    with hold_lock(compute_cache_root() / "bin" / ".lock", _BUILD_TIMEOUT, "building the cluster's binaries"):
        plan = [
            (module, built)
            for module in MODULES
            if (built := [name for name in module.packages if name in missing and not paths[name].exists()])
        ]
        go = ensure_go() if plan else ""
        for number, (module, built) in enumerate(plan, start=1):
            _build(go, module, built, paths[built[0]].parent, f"[{number}/{len(plan)}]")
    return paths


def _build(go: str, module: GoModule, names: list[str], target: Path, position: str) -> None:
    target.mkdir(parents=True, exist_ok=True)
    label = f"{position} {module.name}: {', '.join(names)}"
    print(f"{label}: building (the first time takes minutes; the result is kept in {target})", flush=True)
    with tempfile.TemporaryDirectory(dir=target, prefix=".build-") as scratch:
        # One program without a tool line of its own, such as `.`, would be named after its module's folder.
        output = scratch if len(names) > 1 else str(Path(scratch) / names[0])
        argv = [go, "build", "-v", "-trimpath", "-buildvcs=false", f"-ldflags={module.ldflags}"]
        argv += [f"-tags={module.tags}"] if module.tags else []
        argv += [f"-o={output}", *(module.packages[name] for name in names)]
        # The toolchain is the one that was chosen: Go must not fetch another, nor take a workspace's settings.
        env = {**os.environ, "CGO_ENABLED": "0", "GOTOOLCHAIN": "local", "GOWORK": "off", "GOFLAGS": "-mod=readonly"}
        started = time.monotonic()
        with subprocess.Popen(argv, cwd=module.folder, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
            lines = _follow(process, label, started)
            try:
                code = process.wait(_BUILD_TIMEOUT)
            except BaseException:
                process.kill()
                raise
        if code != 0:
            raise DevClusterError(f"{label}: go build failed (exit {code}):\n" + "\n".join(lines[-25:]) + describe_full_disk(lines, target))
        for name in names:
            # Of several programs Go names each after the last part of its package.
            made = PurePosixPath(module.packages[name]).name if len(names) > 1 else name
            shutil.move(Path(scratch) / made, target / name)
    print(f"{label}: built in {time.monotonic() - started:.0f} s", flush=True)


def _follow(process: "subprocess.Popen[str]", label: str, started: float) -> list[str]:
    """Read the compiler's output to its end, saying every so often how far it is."""
    lines: list[str] = []
    ended = threading.Event()

    def report() -> None:
        interactive = sys.stdout.isatty()
        while not ended.wait(1.0 if interactive else _REPORT_INTERVAL):
            text = f"{label}: {len(lines)} packages compiled, {time.monotonic() - started:.0f} s"
            print(f"\r{text}" if interactive else text, end="" if interactive else "\n", flush=True)
        if interactive:
            print(flush=True)

    reporter = threading.Thread(target=report, daemon=True)
    reporter.start()
    assert process.stderr is not None  # noqa: S101
    try:
        for line in process.stderr:
            # One by one, not in a comprehension: the reporter counts them as they come.
            lines.append(line.rstrip())  # noqa: PERF401
    finally:
        ended.set()
        reporter.join()
    return lines
