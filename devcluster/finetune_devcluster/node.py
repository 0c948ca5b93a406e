"""A whole cluster with a node that runs containers, all of it in namespaces of its own."""

import json
import os
import platform
from pathlib import Path

from finetune_devcluster import (
    binaries,
    control_plane,
    image_store,
    images,
    mount_points,
    namespaces,
    node_config,
    object_store,
)
from finetune_devcluster.api_client import ApiClient
from finetune_devcluster.binaries import compute_architecture
from finetune_devcluster.control_plane import Credentials
from finetune_devcluster.files import write_atomic, write_json
from finetune_devcluster.kubeconfig import write_kubeconfig
from finetune_devcluster.node_config import NODE_NAME, NodeNetwork
from finetune_devcluster.paths import compute_cluster_id
from finetune_devcluster.pki import CertificateAuthority
from finetune_devcluster.startup import start_control_plane, start_object_store, wait_for_accounts, wait_for_node
from finetune_devcluster.state import ClusterState
from finetune_devcluster.supervisor import NAMESPACE, Supervisor

_SANDBOX_REPOSITORY = "finetune.dev/devcluster/pause"


def start_cluster(folder: Path, name: str) -> ClusterState:
    """Start everything: namespaces, control plane, containerd, kubelet, kube-proxy, name server and object store.

    Raises:
        DevClusterError: a part did not start; the message has the end of its log.
    """
    paths = binaries.ensure_binaries(binaries.NODE)
    identity = compute_cluster_id(folder)
    network = node_config.compute_network(identity, namespaces.observe_networks())
    endpoints = control_plane.build_fixed_endpoints(network.address)
    supervisor = Supervisor(folder, ClusterState(name, "node", endpoints, network=network))
    pid = namespaces.start_namespaces(supervisor, paths["pause"])
    namespaces.connect(pid, network)
    namespaces.mount_folders(pid, folder, network.address)
    credentials = control_plane.make_credentials(folder / "pki", endpoints)
    _start_containerd(supervisor, paths)
    client = start_control_plane(supervisor, paths, credentials)
    _start_name_server(supervisor, paths["coredns"], network, credentials, client)
    start_kubelet(supervisor, paths["kubelet"], network, credentials.authority, NODE_NAME)
    _start_proxy(supervisor, paths["kube-proxy"], credentials.authority)
    start_object_store(supervisor, paths["versitygw"], network.address, object_store.PORT, object_store.POD_ENDPOINT)
    for path, manifest in node_config.build_external_service(
        object_store.NAMESPACE, object_store.SERVICE, network.address, object_store.PORT
    ):
        client.apply(path, manifest)
    wait_for_accounts(supervisor, client)
    wait_for_node(supervisor, client, ["containerd", "kubelet", "kube-proxy", "coredns"])
    return supervisor.state


def remove_traces(folder: Path, state: ClusterState) -> None:
    """Remove what a cluster leaves outside its folder once its processes have ended."""
    identity = compute_cluster_id(folder)
    namespaces.remove_cgroups(_compute_cgroup(identity))
    if state.network is not None:
        namespaces.remove_interface(state.network.interface)
    mount_points.remove_unused()


def _start_containerd(supervisor: Supervisor, paths: dict[str, Path]) -> None:
    """Start containerd over a folder of the cache, rid of the containers of clusters that have gone."""
    pause, program = paths["pause"], paths["containerd"]
    # It looks for its shim on the PATH, where another version of it may lie.
    environment = {"PATH": f"{program.parent}{os.pathsep}{os.environ['PATH']}"}
    holder = supervisor.state.processes[NAMESPACE]
    store = image_store.take_store(supervisor.folder, holder)
    supervisor.state.image_store = str(store)
    sandbox = f"{_SANDBOX_REPOSITORY}:{pause.parent.name.removeprefix('pause-')}"
    snapshotter = image_store.find_snapshotter(store)

    def start(*, cri: bool) -> None:
        text = node_config.build_containerd_config(store, snapshotter, sandbox, cri=cri)
        config = write_atomic(supervisor.folder / ("containerd.toml" if cri else "containerd-bare.toml"), text)
        supervisor.start("containerd", [str(program), "--config", str(config)], environment)
        supervisor.wait("containerd serving", lambda: image_store.is_serving(holder.pid), 30, ["containerd"])

    namespaces.run_inside(holder.pid, "cat >/run/cni/10-pods.conflist <<'END'\n" + _cni_text() + "\nEND")
    # Without its CRI part first: that part remembers every container it finds, even one deleted under its hands.
    start(cri=False)
    image_store.remove_containers(holder.pid)
    image_store.remove_outdated(holder.pid, store)
    if sandbox not in image_store.list_images(holder.pid):
        archive = supervisor.folder / "pause.tar"
        images.make_single_file_image(archive, pause, compute_architecture(platform.machine()), sandbox)
        image_store.load_archive(holder.pid, store, archive)
        archive.unlink()
    supervisor.stop("containerd")
    start(cri=True)


def _cni_text() -> str:
    return json.dumps(node_config.build_cni_config())


def start_kubelet(supervisor: Supervisor, binary: Path, network: NodeNetwork, authority: CertificateAuthority, name: str) -> None:
    """Start kubelet as the node called ``name``; what other nodes' pods left running here, it ends."""
    folder, server = supervisor.folder, supervisor.state.endpoints.server
    user = f"system:node:{name}"
    client = authority.issue("kubelet", user, [control_plane.NODE_GROUP])
    serving = authority.issue("kubelet-server", user, [control_plane.NODE_GROUP], hosts=[network.address, name])
    group = namespaces.make_cgroups(_compute_cgroup(compute_cluster_id(folder)))
    config = write_json(
        folder / "kubelet.json",
        node_config.build_kubelet_config(network.address, group, authority.cert, serving.cert, serving.key),
    )
    kubeconfig = write_kubeconfig(folder / "pki" / "kubelet.kubeconfig", server, authority.cert, client, user)
    supervisor.start("kubelet", node_config.build_kubelet(binary, config, kubeconfig, network.address, name))


def _start_proxy(supervisor: Supervisor, binary: Path, authority: CertificateAuthority) -> None:
    user = "system:kube-proxy"
    pair = authority.issue("kube-proxy", user)
    path = supervisor.folder / "pki" / "kube-proxy.kubeconfig"
    kubeconfig = write_kubeconfig(path, supervisor.state.endpoints.server, authority.cert, pair, user)
    supervisor.start("kube-proxy", node_config.build_kube_proxy(binary, kubeconfig))


def _start_name_server(supervisor: Supervisor, binary: Path, network: NodeNetwork, credentials: Credentials, client: ApiClient) -> None:
    for path, manifest in node_config.build_dns_role():
        client.apply(path, manifest)
    user, server = "system:coredns", supervisor.state.endpoints.server
    pair = credentials.authority.issue("coredns", user)
    kubeconfig = supervisor.folder / "pki" / "coredns.kubeconfig"
    write_kubeconfig(kubeconfig, server, credentials.authority.cert, pair, user)
    corefile = write_atomic(supervisor.folder / "Corefile", node_config.build_corefile(network, kubeconfig))
    supervisor.start("coredns", [str(binary), f"-conf={corefile}"])


def _compute_cgroup(identity: str) -> str:
    return f"finetune-dev-{identity}"
