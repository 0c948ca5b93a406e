"""The development cluster as its users see it: tests, the demo, benchmarks and the command line."""

import os
import shlex
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from finetune_devcluster import binaries, capabilities, image_store, lifecycle, namespaces, node, node_config, reaper, startup
from finetune_devcluster.api_client import ApiClient
from finetune_devcluster.errors import DevClusterError
from finetune_devcluster.files import hold_lock
from finetune_devcluster.gpus import advertise_gpus
from finetune_devcluster.kubeconfig import write_kubeconfig
from finetune_devcluster.namespaces import build_entry
from finetune_devcluster.paths import compute_lock_path, compute_state_dir
from finetune_devcluster.pki import CertificateAuthority
from finetune_devcluster.process_node.settings import LocalImage, write_image
from finetune_devcluster.processes import read_tail
from finetune_devcluster.state import ClusterState, Mode, ObjectStore, load_state
from finetune_devcluster.supervisor import NAMESPACE, Supervisor

_LOCK_TIMEOUT = 900.0


class Cluster:
    """A running development cluster.

    Get one by `Cluster.up`, which also finds the one that runs already. As a context manager it is taken down at the
    end of the block.
    """

    def __init__(self, folder: Path, state: ClusterState) -> None:
        """Wrap the running cluster of `state`; use `up` or `attach` instead."""
        self.folder = folder
        self._supervisor = Supervisor(folder, state)
        self._reaper: reaper.Reaper | None = None

    @classmethod
    def up(
        cls,
        name: str = "dev",
        *,
        mode: Mode | Literal["auto"] = "control-plane",
        gpus: int | None = None,
        state_root: Path | None = None,
        object_store: bool | None = None,
        ephemeral: bool = False,
    ) -> Self:
        """Return the cluster called `name`, started, mended or just found.

        Args:
            mode: `node` (everything, containers too), `control-plane` (API server and controllers on loopback: no
                root, no pods run), `process-node` (control plane and a stand-in that runs pods as local processes), or
                `auto` (`node` where this machine can, else `process-node`).
            gpus: how many `nvidia.com/gpu` the node advertises; by default none, or as many as it does already.
            state_root: the folder of all clusters' state, by default `.dev` in the repository.
            object_store: whether to run the S3 server; by default in every mode but `control-plane`.
            ephemeral: take the cluster down when this process ends, however it ends.

        Raises:
            DevClusterError: it cannot be started here; the message says why.
        """
        folder = compute_state_dir(name, state_root)
        chosen = choose_mode(mode)
        with_store = chosen != "control-plane" if object_store is None else object_store
        # The watch begins before the first process does, or an end in between would leave processes behind.
        guard = reaper.Reaper(folder) if ephemeral else None
        try:
            with hold_lock(compute_lock_path(folder), _LOCK_TIMEOUT, f"working on cluster {name}"):
                cluster = cls(folder, lifecycle.bring_up(folder, name, chosen, with_store=with_store))
                if gpus is not None:
                    cluster.advertise_gpus(gpus)
        except BaseException:
            if guard is not None:
                guard.dismiss()
            raise
        cluster._reaper = guard
        return cluster

    @classmethod
    def attach(cls, name: str = "dev", state_root: Path | None = None) -> Self:
        """Return the cluster called `name` as it is, started by whomever.

        Raises:
            DevClusterError: there is none.
        """
        folder = compute_state_dir(name, state_root)
        state = load_state(folder)
        if state is None:
            raise DevClusterError(f"there is no cluster {name!r} ({folder}): start it with `up`")
        return cls(folder, state)

    @property
    def name(self) -> str:
        """The cluster's name."""
        return self._supervisor.state.name

    @property
    def mode(self) -> Mode:
        """The mode that it runs in."""
        return self._supervisor.state.mode

    @property
    def server(self) -> str:
        """The API server's URL, as this machine reaches it."""
        return self._supervisor.state.endpoints.server

    @property
    def host_address(self) -> str:
        """The address at which pods reach servers of this machine; it has the name `node_config.HOST_NAME` too."""
        network = self._supervisor.state.network
        return "127.0.0.1" if network is None else network.host_address

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig."""
        return self.folder / "kubeconfig"

    @property
    def audit_log(self) -> Path:
        """The API server's audit log: one JSON event to a line for every finished write, leases left out."""
        return self.folder / "audit.log"

    @property
    def client(self) -> ApiClient:
        """A small synchronous client with the administrator's rights."""
        return startup.build_client(self.folder, self._supervisor.state.endpoints)

    @property
    def object_store(self) -> ObjectStore:
        """The S3 server: endpoints, bucket and keys.

        Raises:
            DevClusterError: the cluster was started without one.
        """
        store = self._supervisor.state.object_store
        if store is None:
            raise DevClusterError(f"cluster {self.name} has no object store: start it with object_store=True")
        return store

    @property
    def s3_endpoint(self) -> str:
        """The S3 server's URL, as this machine reaches it."""
        return self.object_store.endpoint

    @property
    def s3_credentials(self) -> tuple[str, str]:
        """The S3 server's access key and secret key."""
        return self.object_store.access_key, self.object_store.secret_key

    @property
    def components(self) -> dict[str, bool]:
        """Whether each process of the cluster runs, by its name."""
        return {name: self._supervisor.is_running(name) for name in self._supervisor.state.processes}

    def process_id(self, component: str) -> int:
        """Return the process of a component, one of :attr:`components`."""
        return self._supervisor.state.processes[component].pid

    def describe(self) -> dict[str, Any]:
        """Return what runs and where, as plain JSON values; the object store's keys are among them."""
        store = self._supervisor.state.object_store
        return {
            "name": self.name,
            "mode": self.mode,
            "components": self.components,
            "server": self.server,
            "kubeconfig": str(self.kubeconfig),
            "audit_log": str(self.audit_log),
            "object_store": None if store is None else vars(store),
        }

    def kubectl(self, *arguments: str, stdin: str | None = None, timeout: float = 60.0) -> str:
        """Run kubectl as the administrator and return its standard output.

        Raises:
            DevClusterError: it failed; the message is its standard error.
        """
        kubectl = binaries.ensure_binaries(["kubectl"])["kubectl"]
        try:
            spoken = subprocess.run(
                [str(kubectl), *arguments],
                input=stdin,
                env={**os.environ, "KUBECONFIG": str(self.kubeconfig)},
                capture_output=True,
                text=True,
                timeout=timeout,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise DevClusterError(f"kubectl {' '.join(arguments)}: no end within {timeout:.0f} s") from None
        if spoken.returncode != 0:
            raise DevClusterError(f"kubectl {' '.join(arguments)}: {spoken.stderr.strip()}")
        return spoken.stdout

    def mint_user(self, name: str, groups: Sequence[str] = (), namespace: str = "default") -> Path:
        """Return the kubeconfig of a new user, known by a client certificate; what it may do is RBAC's to say."""
        pair = CertificateAuthority(self.folder / "pki").issue(f"user-{name}", name, groups)
        path = self.folder / "users" / f"{name}.kubeconfig"
        return write_kubeconfig(path, self.server, self.folder / "pki" / "ca.crt", pair, name, namespace)

    def advertise_gpus(self, count: int) -> None:
        """Let the node advertise `count` GPUs that it does not have, and wait until it does."""
        advertise_gpus(self._supervisor, self.client, count)

    def load_image(self, archive: Path) -> list[str]:
        """Load images into the node and return their names; one that is there already, by digest, costs nothing.

        Args:
            archive: best an OCI layout, as a folder (`oci:` in buildah and skopeo) on the cache's file system, its
                layers uncompressed; also any OCI or Docker archive.

        Raises:
            DevClusterError: the cluster has no node, or this is no image.
        """
        state = self._supervisor.state
        if state.image_store is None:
            hint = "; map the image to a local command instead: map_image" if self.mode == "process-node" else ""
            raise DevClusterError(f"cluster {self.name} ({self.mode}) runs no containers, so it takes no image{hint}")
        holder = state.processes[NAMESPACE].pid
        with hold_lock(Path(state.image_store) / "load.lock", _LOCK_TIMEOUT, "loading an image"):
            return image_store.load_archive(holder, Path(state.image_store), archive)

    def map_image(self, reference: str, entrypoint: Sequence[str], path: Sequence[Path] = ()) -> None:
        """Tell the process node which local command stands in for an image, from the next pod on.

        Args:
            reference: the image's name as pods have it; `*` and `?` match.
            entrypoint: the command of a container that names none.
            path: folders put first on the PATH of the image's processes, such as a virtual environment's `bin`.

        Raises:
            DevClusterError: the cluster runs no process node.
        """
        if self.mode != "process-node":
            raise DevClusterError(f"cluster {self.name} ({self.mode}) runs no process node: load the image instead")
        write_image(self.folder, reference, LocalImage(tuple(entrypoint), tuple(str(each) for each in path)))

    def trust_registry(self, address: str) -> None:
        """Let the node pull images from a registry that speaks plain HTTP.

        Args:
            address: `HOST:PORT` as images name it.
        """
        folder = shlex.quote(f"{node_config.REGISTRIES}/{address}")
        hosts = shlex.quote(f'server = "http://{address}"\n')
        holder = self._supervisor.state.processes[NAMESPACE].pid
        namespaces.run_inside(holder, f"mkdir -p {folder}; printf %s {hosts} >{folder}/hosts.toml")

    def list_images(self) -> dict[str, str]:
        """Return the digest of every image of the node by its name."""
        state = self._supervisor.state
        return {} if state.image_store is None else image_store.list_images(state.processes[NAMESPACE].pid)

    def remove_images(self, names: Sequence[str]) -> None:
        """Remove images from the node; containers that run are not touched by it."""
        image_store.remove_images(self._supervisor.state.processes[NAMESPACE].pid, names)

    @property
    def entry(self) -> list[str]:
        """The words that, put before a command, run it inside the cluster's namespaces; none where it has none."""
        holder = self._supervisor.state.processes.get(NAMESPACE)
        return [] if holder is None else build_entry(holder.pid)

    def stop(self, component: str, *, kill: bool = False) -> None:
        """Stop one component, by SIGTERM or at once by SIGKILL; `restart` brings it back."""
        self._supervisor.stop(component, signal.SIGKILL if kill else signal.SIGTERM)

    def restart(self, component: str) -> None:
        """Stop one component if it runs, start it again, and wait until the API server answers."""
        self._supervisor.restart(component)
        startup.wait_for_api(self._supervisor, self.client)

    def lose_node(self) -> None:
        """Let the node's kubelet and every container end at once, as a power cut would: nobody is left who could say so."""
        self.stop("kubelet", kill=True)
        image_store.kill_containers(self._supervisor.state.processes[NAMESPACE].pid)

    def replace_node(self, name: str) -> None:
        """Bring a new node in the place of one that was lost, and wait until it is ready.

        The machine stays the same: kubelet starts anew under another name and ends the containers that it finds. The old Node, and
        what the API server has of its pods, are as they would be if that machine had burnt.

        Raises:
            DevClusterError: the cluster has no node, its kubelet still runs, or the new one was not ready in time.
        """
        network = self._supervisor.state.network
        if network is None:
            raise DevClusterError(f"cluster {self.name} ({self.mode}) has no node")
        if self._supervisor.is_running("kubelet"):
            raise DevClusterError("kubelet still runs: stop it first")
        binary = binaries.ensure_binaries(["kubelet"])["kubelet"]
        node.start_kubelet(self._supervisor, binary, network, CertificateAuthority(self.folder / "pki"), name)
        startup.wait_for_node(self._supervisor, self.client, ["containerd", "kubelet"], name)

    def log(self, component: str, lines: int = 50) -> str:
        """Return the last lines of a component's log."""
        return read_tail(self._supervisor.log_of(component), lines)

    def down(self) -> None:
        """Take the cluster down and remove every trace of it."""
        take_down(self.folder)
        if self._reaper is not None:
            self._reaper.dismiss()

    def __enter__(self) -> Self:
        """Return the cluster."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Take the cluster down."""
        self.down()


def choose_mode(asked: Mode | Literal["auto"]) -> Mode:
    """Return the mode to run: the one asked for, or the fullest that this machine can, having said which and why.

    A node's missing Debian packages are installed where that can be done.

    Raises:
        DevClusterError: this machine cannot run what was asked for; the message says why and what it can run.
    """
    if asked in ("control-plane", "process-node"):
        able = capabilities.compute_capabilities(capabilities.observe_machine_cheaply())
        if able.control_plane:
            raise DevClusterError(able.describe())
        return asked
    if capabilities.compute_capabilities(capabilities.observe_machine()).installable:
        capabilities.install_packages()
    able = capabilities.compute_capabilities(capabilities.observe_machine())
    if able.control_plane or (asked == "node" and able.node):
        raise DevClusterError(able.describe())
    if asked == "auto" and able.node:
        print(able.describe(), flush=True)
    return able.best_mode


def take_down(folder: Path) -> None:
    """Take down the cluster in `folder`, whether it runs, is half there, or is not there at all."""
    with hold_lock(compute_lock_path(folder), _LOCK_TIMEOUT, f"working on cluster {folder.name}"):
        lifecycle.tear_down(folder)
        lifecycle.remove_kept_logs(folder)
