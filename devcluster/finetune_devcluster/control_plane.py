"""The command lines of etcd, the API server, the controller manager and the scheduler."""

import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from finetune_devcluster.files import write_json
from finetune_devcluster.kubeconfig import write_kubeconfig
from finetune_devcluster.pki import CertificateAuthority, KeyPair, make_signing_key
from finetune_devcluster.ports import find_free_ports

SERVICE_RANGE = "10.96.0.0/16"
KUBERNETES_SERVICE = "10.96.0.1"
"""The ClusterIP of the `kubernetes` Service: always the first address of the range."""

CLUSTER_DOMAIN = "cluster.local"
ADMIN = "admin"
ADMIN_GROUP = "system:masters"
NODE_GROUP = "system:nodes"

_WRITE_VERBS = ["create", "update", "patch", "delete", "deletecollection"]


@dataclass(frozen=True)
class Endpoints:
    """Where the control plane listens."""

    address: str
    etcd: int
    etcd_peer: int
    apiserver: int
    controller_manager: int
    scheduler: int

    @property
    def server(self) -> str:
        """The API server's URL."""
        return f"https://{self.address}:{self.apiserver}"

    def as_json(self) -> dict[str, Any]:
        """Return the endpoints as plain JSON values."""
        return asdict(self)


def build_fixed_endpoints(address: str) -> Endpoints:
    """Return the usual ports, for a cluster that has a network namespace to itself."""
    return Endpoints(address, 2379, 2380, 6443, 10257, 10259)


def find_free_endpoints() -> Endpoints:
    """Return loopback ports that nothing listens on at this moment."""
    return Endpoints("127.0.0.1", *find_free_ports(5))


@dataclass(frozen=True)
class Credentials:
    """The files by which the parts of the control plane know each other."""

    authority: CertificateAuthority
    apiserver: KeyPair
    admin: KeyPair
    kubelet_client: KeyPair
    signing_key: Path
    admin_kubeconfig: Path
    component_kubeconfigs: Mapping[str, Path]


def make_credentials(folder: Path, endpoints: Endpoints) -> Credentials:
    """Make the authority, every certificate and every kubeconfig of the control plane in `folder`."""
    authority = CertificateAuthority(folder)
    service = "kubernetes.default.svc"
    hosts = ["localhost", "kubernetes", "kubernetes.default", service, f"{service}.{CLUSTER_DOMAIN}"]
    hosts += sorted({"127.0.0.1", KUBERNETES_SERVICE, endpoints.address})
    admin = authority.issue(ADMIN, ADMIN, [ADMIN_GROUP])

    def kubeconfig(name: str, user: str) -> Path:
        pair = authority.issue(name, user)
        return write_kubeconfig(folder / f"{name}.kubeconfig", endpoints.server, authority.cert, pair, user)

    names = ("kube-controller-manager", "kube-scheduler")
    return Credentials(
        authority=authority,
        apiserver=authority.issue("kube-apiserver", "kube-apiserver", hosts=hosts),
        admin=admin,
        kubelet_client=authority.issue("kube-apiserver-kubelet-client", "kube-apiserver", [ADMIN_GROUP]),
        signing_key=make_signing_key(folder / "service-account.key"),
        admin_kubeconfig=write_kubeconfig(folder.parent / "kubeconfig", endpoints.server, authority.cert, admin, ADMIN),
        component_kubeconfigs={name: kubeconfig(name, f"system:{name}") for name in names},
    )


def write_audit_policy(path: Path) -> Path:
    """Write the audit policy: every write and who made it, without bodies; no reads, no leases, no request halves."""
    policy = {
        "apiVersion": "audit.k8s.io/v1",
        "kind": "Policy",
        "omitStages": ["RequestReceived"],
        "rules": [
            {"level": "None", "resources": [{"group": "coordination.k8s.io", "resources": ["leases"]}]},
            {"level": "Metadata", "verbs": _WRITE_VERBS},
            {"level": "None"},
        ],
    }
    return write_json(path, policy)


def build_etcd(binary: Path, data: Path, endpoints: Endpoints) -> list[str]:
    """Build etcd's command line. It does not wait for the disk: what a development cluster loses, it makes again."""
    client = f"http://127.0.0.1:{endpoints.etcd}"
    peer = f"http://127.0.0.1:{endpoints.etcd_peer}"
    return [
        str(binary),
        f"--data-dir={data}",
        "--unsafe-no-fsync",
        f"--listen-client-urls={client}",
        f"--advertise-client-urls={client}",
        f"--listen-peer-urls={peer}",
        f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster=default={peer}",
        "--log-level=warn",
    ]


def build_apiserver(binary: Path, endpoints: Endpoints, credentials: Credentials, audit_policy: Path, audit_log: Path) -> list[str]:
    """Build the API server's command line: RBAC, node authorisation, projected tokens, an audit log of writes."""
    loopback = endpoints.address == "127.0.0.1"
    issuer = f"https://kubernetes.default.svc.{CLUSTER_DOMAIN}"
    return [
        str(binary),
        f"--etcd-servers=http://127.0.0.1:{endpoints.etcd}",
        f"--bind-address={endpoints.address}",
        f"--advertise-address={endpoints.address}",
        f"--secure-port={endpoints.apiserver}",
        # A loopback address is no endpoint that a pod could use, and the reconciler refuses to publish one.
        *(["--endpoint-reconciler-type=none"] if loopback else []),
        f"--service-cluster-ip-range={SERVICE_RANGE}",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        f"--tls-cert-file={credentials.apiserver.cert}",
        f"--tls-private-key-file={credentials.apiserver.key}",
        f"--client-ca-file={credentials.authority.cert}",
        f"--kubelet-certificate-authority={credentials.authority.cert}",
        f"--kubelet-client-certificate={credentials.kubelet_client.cert}",
        f"--kubelet-client-key={credentials.kubelet_client.key}",
        "--kubelet-preferred-address-types=InternalIP",
        f"--service-account-issuer={issuer}",
        f"--service-account-key-file={credentials.signing_key}",
        f"--service-account-signing-key-file={credentials.signing_key}",
        f"--audit-policy-file={audit_policy}",
        f"--audit-log-path={audit_log}",
        "--audit-log-maxsize=2000",
        "--profiling=false",
    ]


def build_controller_manager(binary: Path, endpoints: Endpoints, credentials: Credentials) -> list[str]:
    """Build the controller manager's command line, its client allowed the rate that a burst of Jobs needs."""
    return [
        *_build_component(binary, credentials, endpoints.controller_manager),
        "--use-service-account-credentials",
        f"--service-account-private-key-file={credentials.signing_key}",
        f"--root-ca-file={credentials.authority.cert}",
        "--kube-api-qps=200",
        "--kube-api-burst=400",
        # A node that has stopped is a test's subject: it is noticed within seconds, not within the usual minute.
        "--node-monitor-period=2s",
        "--node-monitor-grace-period=16s",
    ]


def build_scheduler(binary: Path, endpoints: Endpoints, credentials: Credentials) -> list[str]:
    """Build the scheduler's command line."""
    return _build_component(binary, credentials, endpoints.scheduler)


def _build_component(binary: Path, credentials: Credentials, port: int) -> list[str]:
    """Build what the API server's own clients have in common."""
    kubeconfig = credentials.component_kubeconfigs[binary.name]
    return [
        str(binary),
        f"--kubeconfig={kubeconfig}",
        f"--authentication-kubeconfig={kubeconfig}",
        f"--authorization-kubeconfig={kubeconfig}",
        "--bind-address=127.0.0.1",
        f"--secure-port={port}",
        "--leader-elect=false",
        "--profiling=false",
    ]


def make_object_store_secret() -> str:
    """Return a new secret key for the object store."""
    return secrets.token_hex(16)
