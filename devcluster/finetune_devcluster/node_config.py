"""The configuration of a node: containerd, the pod network, kubelet, kube-proxy and the name server."""

import ipaddress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune_devcluster.control_plane import CLUSTER_DOMAIN
from finetune_devcluster.errors import DevClusterError

NODE_NAME = "finetune-node"
POD_RANGE = "10.244.0.0/24"
CONTAINERD_SOCKET = "/run/containerd/containerd.sock"
REGISTRIES = "/run/registries"
"""Folder of the registries that containerd speaks to otherwise than by HTTPS, each with a folder `HOST:PORT`."""

HOST_NAME = "host.finetune-dev.internal"
"""The name by which pods reach servers of the machine that the cluster runs on."""

_KUBELET_PORT = 10250


@dataclass(frozen=True)
class NodeNetwork:
    """The two ends of the cable between the machine and the cluster's network namespace."""

    interface: str
    """The machine's end; the other is `eth0` of the namespace."""
    host_address: str
    address: str
    prefix: int = 30


def compute_network(cluster_id: str, taken: list[ipaddress.IPv4Network], attempt: int = 0) -> NodeNetwork:
    """Return a four-address network for the cluster that overlaps none of the networks that the machine has.

    Args:
        cluster_id: 8 hexadecimal characters.
    """
    pool = list(ipaddress.IPv4Network("10.213.0.0/16").subnets(new_prefix=30))
    start = int(cluster_id, 16) + attempt
    for step in range(len(pool)):
        candidate = pool[(start + step) % len(pool)]
        if not any(candidate.overlaps(each) for each in taken if each.prefixlen > 0):
            host, address = candidate.hosts()
            return NodeNetwork(f"ftd{cluster_id}", str(host), str(address))
    raise DevClusterError("10.213.0.0/16 is taken whole by other networks of this machine: a cluster needs 4 addresses of it")


def build_containerd_config(root: Path, snapshotter: str, sandbox_image: str, *, cri: bool) -> str:
    """Build containerd's configuration.

    Args:
        root: where images and snapshots are kept.
        cri: whether kubelet's interface is served; without it, only images and containers can be looked after.
    """
    disabled = [f"io.containerd.snapshotter.v1.{name}" for name in ("blockfile", "erofs")]
    disabled += ["io.containerd.tracing.processor.v1.otlp", "io.containerd.internal.v1.tracing", "io.containerd.nri.v1.nri"]
    if not cri:
        disabled += [f"io.containerd.{name}" for name in ("grpc.v1.cri", "cri.v1.runtime", "cri.v1.images")]
    # restrict_oom_score_adj: a machine without CAP_SYS_RESOURCE may not lower a score, and runc fails on the attempt.
    return f"""version = 4
root = "{root}"
state = "/run/containerd"
imports = []
disabled_plugins = [{", ".join(f'"{name}"' for name in disabled)}]
[plugins."io.containerd.server.v1.grpc"]
  address = "{CONTAINERD_SOCKET}"
[plugins."io.containerd.cri.v1.images"]
  snapshotter = "{snapshotter}"
  [plugins."io.containerd.cri.v1.images".pinned_images]
    sandbox = "{sandbox_image}"
  [plugins."io.containerd.cri.v1.images".registry]
    config_path = "{REGISTRIES}"
[plugins."io.containerd.cri.v1.runtime"]
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
  disable_apparmor = true
  [plugins."io.containerd.cri.v1.runtime".cni]
    bin_dirs = ["{find_cni_folder()}"]
    conf_dir = "/run/cni"
"""


def find_cni_folder() -> Path:
    """Return the folder of the network plugins: the one of Debian's package, or the one of other distributions."""
    return next((each for each in map(Path, CNI_FOLDERS) if (each / "ptp").exists()), Path(CNI_FOLDERS[0]))


CNI_FOLDERS = ("/usr/lib/cni", "/opt/cni/bin", "/usr/libexec/cni")


def build_cni_config() -> dict[str, Any]:
    """Build the pod network: a cable from every pod to the node, which routes.

    With a bridge, an answer between two pods would pass by the node's address translation unless the kernel has
    br_netfilter; routed, everything passes through it.
    """
    return {
        "cniVersion": "1.0.0",
        "name": "pods",
        "plugins": [
            {
                "type": "ptp",
                "ipMasq": True,
                "ipam": {"type": "host-local", "ranges": [[{"subnet": POD_RANGE}]], "routes": [{"dst": "0.0.0.0/0"}]},
            },
        ],
    }


def build_kubelet_config(address: str, cgroup_root: str, authority: Path, cert: Path, key: Path) -> dict[str, Any]:
    """Build kubelet's configuration: the real rules of who may ask it, and quick to notice and to report."""
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": address,
        "port": _KUBELET_PORT,
        "tlsCertFile": str(cert),
        "tlsPrivateKeyFile": str(key),
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": str(authority)},
        },
        "authorization": {"mode": "Webhook"},
        "clusterDomain": CLUSTER_DOMAIN,
        "clusterDNS": [address],
        "resolvConf": "",
        "containerRuntimeEndpoint": f"unix://{CONTAINERD_SOCKET}",
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": cgroup_root,
        "failCgroupV1": False,
        "failSwapOn": False,
        "oomScoreAdj": 0,
        "healthzBindAddress": "127.0.0.1",
        "nodeStatusUpdateFrequency": "2s",
        "nodeStatusReportFrequency": "10s",
        "nodeLeaseDurationSeconds": 12,
        "serializeImagePulls": False,
        # The disk is the developer's: kubelet neither deletes images nor evicts pods over how full it is.
        "imageGCHighThresholdPercent": 100,
        "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
    }


def build_kubelet(binary: Path, config: Path, kubeconfig: Path, address: str, name: str = NODE_NAME) -> list[str]:
    """Build kubelet's command line."""
    return [
        str(binary),
        f"--config={config}",
        f"--kubeconfig={kubeconfig}",
        f"--hostname-override={name}",
        f"--node-ip={address}",
    ]


def build_kube_proxy(binary: Path, kubeconfig: Path) -> list[str]:
    """Build kube-proxy's command line. The limit on connections tracked belongs to the machine, so it is left alone."""
    return [
        str(binary),
        f"--kubeconfig={kubeconfig}",
        f"--hostname-override={NODE_NAME}",
        "--proxy-mode=iptables",
        f"--cluster-cidr={POD_RANGE}",
        "--conntrack-max-per-core=0",
        "--conntrack-tcp-timeout-established=0",
        "--conntrack-tcp-timeout-close-wait=0",
        "--healthz-bind-address=127.0.0.1:10256",
        "--metrics-bind-address=127.0.0.1:10249",
        "--oom-score-adj=0",
    ]


def build_corefile(network: NodeNetwork, kubeconfig: Path) -> str:
    """Build CoreDNS' configuration: the cluster's names and the machine's; every other name does not exist."""
    return f""". {{
  bind {network.address}
  errors
  ready 127.0.0.1:8181
  kubernetes {CLUSTER_DOMAIN} in-addr.arpa {{
    kubeconfig {kubeconfig} finetune
    ttl 5
    fallthrough in-addr.arpa
  }}
  hosts {{
    {network.host_address} {HOST_NAME}
    fallthrough
  }}
  template ANY ANY {{
    rcode NXDOMAIN
  }}
}}
"""


def build_dns_role() -> list[tuple[str, dict[str, Any]]]:
    """Build what lets the name server read the cluster's names, as API paths and objects."""
    name = "system:coredns"
    rbac = "/apis/rbac.authorization.k8s.io/v1"
    rules = [
        {"apiGroups": [""], "resources": ["services", "pods", "namespaces"], "verbs": ["list", "watch"]},
        {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"]},
    ]
    group = "rbac.authorization.k8s.io"
    role = {"apiVersion": f"{group}/v1", "kind": "ClusterRole", "metadata": {"name": name}, "rules": rules}
    binding = {
        "apiVersion": f"{group}/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": name},
        "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": name},
        "subjects": [{"apiGroup": group, "kind": "User", "name": name}],
    }
    return [(f"{rbac}/clusterroles/{name}", role), (f"{rbac}/clusterrolebindings/{name}", binding)]


def build_external_service(namespace: str, name: str, address: str, port: int) -> list[tuple[str, dict[str, Any]]]:
    """Build a Service for a server outside the cluster's pods, as API paths and objects."""
    meta = {"name": name, "namespace": namespace}
    ports = [{"name": name, "port": port, "protocol": "TCP"}]
    return [
        (
            f"/api/v1/namespaces/{namespace}",
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}},
        ),
        (
            f"/api/v1/namespaces/{namespace}/services/{name}",
            {"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": {"ports": ports}},
        ),
        (
            f"/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices/{name}",
            {
                "apiVersion": "discovery.k8s.io/v1",
                "kind": "EndpointSlice",
                "metadata": {**meta, "labels": {"kubernetes.io/service-name": name}},
                "addressType": "IPv4",
                "endpoints": [{"addresses": [address], "conditions": {"ready": True}}],
                "ports": ports,
            },
        ),
    ]
