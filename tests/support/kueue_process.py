"""Kueue itself, built from its Go module, as a process beside a control plane: its own CRDs, webhooks and scheduler.

Its chart says what the API server is to know; only the webhooks' addresses are changed, since no Service leads to a process.
"""

import base64
import datetime
import ipaddress
import json
import os
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID

from finetune_devcluster import Cluster
from finetune_devcluster.binaries import ensure_binaries
from finetune_devcluster.ports import find_free_ports
from tests.support.go_modules import find_module

Object = dict[str, Any]
NAMESPACE: Final = "kueue-system"
SERVICE: Final = "kueue-webhook-service"
START_SECONDS: Final = 120.0
_OURS: Final = frozenset({"batch", "kueue.x-k8s.io"})
_CLUSTER_KINDS: Final = frozenset({"MutatingWebhookConfiguration", "ValidatingWebhookConfiguration", "CustomResourceDefinition"})


class KueueProcess:
    """Kueue, for as long as the block lasts."""

    is_real: Final = True

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        self._cluster = cluster
        self._folder = folder
        self._log_path = folder / "kueue.log"
        self._webhook_port, self._health_port = find_free_ports(2)
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        """Install what the API server must know, and start."""
        binary = ensure_binaries(["kueue"])["kueue"]
        authority = self._write_certificates()
        self._cluster.kubectl("create", "namespace", NAMESPACE)
        manifests = [self._point_at_us(each, authority) for each in _render_chart() if each["kind"] in _CLUSTER_KINDS]
        self._apply([each for each in manifests if each["kind"] == "CustomResourceDefinition"] + [self._build_secret()])
        self._cluster.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=60s")
        environment = {**os.environ, "KUBECONFIG": str(self._cluster.kubeconfig), "POD_NAMESPACE": NAMESPACE}
        self._apply([each for each in manifests if each["kind"] != "CustomResourceDefinition"])
        with self._log_path.open("ab") as log:
            self._process = subprocess.Popen([str(binary), f"--config={self._write_config()}"], env=environment, stdout=log, stderr=log)
        deadline = time.monotonic() + START_SECONDS
        while not self._answers():
            assert self._process.poll() is None, f"Kueue left:\n{self.read_log()[-6000:]}"
            assert time.monotonic() < deadline, f"Kueue is not ready:\n{self.read_log()[-6000:]}"
            time.sleep(0.2)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Stop it. Its objects go with the control plane."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def add_queue(self, namespace: str, queue: str, gpus: int) -> None:
        """Make a LocalQueue whose ClusterQueue has quota for so many GPUs, and where priority preempts."""
        cluster_queue = f"{namespace}-{queue}"
        quotas: list[Object] = [
            {"name": "cpu", "nominalQuota": "1k"},
            {"name": "memory", "nominalQuota": "10Ti"},
            {"name": "nvidia.com/gpu", "nominalQuota": str(gpus)},
        ]
        group = {"coveredResources": [each["name"] for each in quotas], "flavors": [{"name": "fake", "resources": quotas}]}
        self._apply(
            [
                _build("ResourceFlavor", "fake", {"nodeLabels": {"kubernetes.io/hostname": "fake-node"}}),
                _build("WorkloadPriorityClass", "low", None) | {"value": 10, "description": "low"},
                _build("WorkloadPriorityClass", "high", None) | {"value": 1000, "description": "high"},
                _build(
                    "ClusterQueue",
                    cluster_queue,
                    {
                        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}},
                        "resourceGroups": [group],
                        "preemption": {"withinClusterQueue": "LowerPriority"},
                    },
                ),
                _build("LocalQueue", queue, {"clusterQueue": cluster_queue}, namespace),
            ]
        )

    def read_log(self) -> str:
        """Return all that it has logged."""
        return self._log_path.read_text()

    def _apply(self, objects: list[Object]) -> None:
        text = json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})
        self._cluster.kubectl("apply", "--server-side", "--force-conflicts", "--filename=-", stdin=text)

    def _answers(self) -> bool:
        """Whether its webhook takes a dry run: then it is ready for what tests ask of it."""
        probe = _build("ResourceFlavor", "probe", {})
        try:
            self._cluster.client.request("POST", "/apis/kueue.x-k8s.io/v1beta2/resourceflavors?dryRun=All", probe)
            job = {
                "apiVersion": "batch/v1",
                "kind": "Job",
                "metadata": {"name": "probe", "namespace": NAMESPACE, "labels": {"kueue.x-k8s.io/queue-name": "probe"}},
                "spec": {"template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "x", "image": "x"}]}}},
            }
            answer = self._cluster.client.request("POST", f"/apis/batch/v1/namespaces/{NAMESPACE}/jobs?dryRun=All", job)
        except Exception:  # noqa: BLE001  not yet; the deadline says why not
            return False
        return bool(answer["spec"].get("suspend"))

    def _write_config(self) -> Path:
        config = {
            "apiVersion": "config.kueue.x-k8s.io/v1beta2",
            "kind": "Configuration",
            "namespace": NAMESPACE,
            "health": {"healthProbeBindAddress": f"127.0.0.1:{self._health_port}"},
            "metrics": {"bindAddress": "0"},
            "webhook": {"host": "127.0.0.1", "port": self._webhook_port, "certDir": str(self._folder)},
            "leaderElection": {"leaderElect": False},
            "internalCertManagement": {"enable": True, "webhookServiceName": SERVICE, "webhookSecretName": "kueue-webhook-server-cert"},
            "integrations": {"frameworks": ["batch/job"]},
            "featureGates": {"VisibilityOnDemand": False},
        }
        path = self._folder / "kueue.yaml"
        path.write_text(yaml.safe_dump(config))
        return path

    def _point_at_us(self, manifest: Object, authority: bytes) -> Object:
        """Lead the webhooks to this process, and leave out those of kinds that nobody here makes."""
        here = {"url": f"https://127.0.0.1:{self._webhook_port}", "caBundle": base64.b64encode(authority).decode()}
        if manifest["kind"] == "CustomResourceDefinition":
            webhook = manifest["spec"].get("conversion", {}).get("webhook")
            if webhook is not None:
                webhook["clientConfig"] = {**here, "url": f"{here['url']}/convert"}
            return manifest
        manifest["webhooks"] = [each for each in manifest["webhooks"] if set(each["rules"][0]["apiGroups"]) <= _OURS]
        for each in manifest["webhooks"]:
            each["clientConfig"] = {**here, "url": here["url"] + each["clientConfig"]["service"]["path"]}
            each.pop("namespaceSelector", None)
        return manifest

    def _write_certificates(self) -> bytes:
        """Write what Kueue would make for its Service, for this machine too: it keeps what is valid."""
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "kueue-ca")])
        key, authority_key = (rsa.generate_private_key(public_exponent=65537, key_size=2048) for _ in range(2))
        now = datetime.datetime.now(datetime.UTC)

        def build(subject: x509.Name, public: rsa.RSAPublicKey) -> x509.CertificateBuilder:
            builder = x509.CertificateBuilder(name, subject, public, x509.random_serial_number())
            return builder.not_valid_before(now - datetime.timedelta(hours=1)).not_valid_after(now + datetime.timedelta(days=3650))

        host = f"{SERVICE}.{NAMESPACE}.svc"
        ca_use = x509.KeyUsage(
            digital_signature=True,
            key_cert_sign=True,
            content_commitment=False,
            key_encipherment=True,
            data_encipherment=False,
            key_agreement=False,
            crl_sign=False,
            encipher_only=False,
            decipher_only=False,
        )
        authority = (
            build(name, authority_key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(ca_use, critical=True)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName("kueue-ca")]), critical=False)  # by which it knows its own
            .sign(authority_key, hashes.SHA256())
        )
        names = x509.SubjectAlternativeName([x509.DNSName(host), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
        certificate = (
            build(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)]), key.public_key())
            .add_extension(names, critical=False)
            .add_extension(x509.ExtendedKeyUsage([x509.ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .sign(authority_key, hashes.SHA256())
        )
        pem = serialization.Encoding.PEM
        old, plain = serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
        files = {
            "ca.crt": authority.public_bytes(pem),
            "ca.key": authority_key.private_bytes(pem, old, plain),
            "tls.crt": certificate.public_bytes(pem),
            "tls.key": key.private_bytes(pem, old, plain),
        }
        for file, content in files.items():
            (self._folder / file).write_bytes(content)
        return files["ca.crt"]

    def _build_secret(self) -> Object:
        files = ("ca.crt", "ca.key", "tls.crt", "tls.key")
        data = {file: base64.b64encode((self._folder / file).read_bytes()).decode() for file in files}
        return {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": "kueue-webhook-server-cert", "namespace": NAMESPACE},
            "data": data,
        }


def _build(kind: str, name: str, spec: Object | None, namespace: str | None = None) -> Object:
    metadata = {"name": name, **({"namespace": namespace} if namespace else {})}
    return {"apiVersion": "kueue.x-k8s.io/v1beta2", "kind": kind, "metadata": metadata, **({"spec": spec} if spec is not None else {})}


def _render_chart() -> list[Object]:
    """Return the objects of Kueue's own chart, which lies in its Go module."""
    folder = find_module("kueue", "sigs.k8s.io/kueue")
    helm = ensure_binaries(["helm"])["helm"]
    rendered = subprocess.run(
        [str(helm), "template", "kueue", f"{folder}/charts/kueue", "--namespace", NAMESPACE, "--kube-version=1.35"],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    return [each for each in yaml.safe_load_all(rendered.stdout) if each]
