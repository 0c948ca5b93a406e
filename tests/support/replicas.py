"""Two replicas of the operator, each as a pod's process would be: a token bound to a pod of its own, and the chart's fence."""

import json
import signal
import subprocess
import time
import urllib.request
from pathlib import Path
from typing import Any, Final

import yaml

from finetune_devcluster import Cluster
from finetune_devcluster.binaries import ensure_binaries
from tests.support.operator_process import NAMESPACE, RELEASE, OperatorProcess

CHART: Final = Path(__file__).parents[2] / "charts" / "finetune-operator"
LEASE: Final = RELEASE
LEASE_PATH: Final = f"/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases/{LEASE}"


def install_templates(cluster: Cluster, *parts: str, values: dict[str, Any] | None = None) -> None:
    """Apply some of the chart's templates, as the administrator."""
    words = [str(ensure_binaries(["helm"])["helm"]), "template", RELEASE, str(CHART), "--namespace", NAMESPACE, "--kube-version=1.35"]
    words += [
        "--set=image.repository=x,trainer.image.repository=y",
        "--values=-",
        *(f"--show-only=templates/{part}.yaml" for part in parts),
    ]
    spoken = subprocess.run(words, input=json.dumps(values or {}), capture_output=True, text=True, check=False, timeout=60)
    assert spoken.returncode == 0, spoken.stderr
    cluster.kubectl("apply", "--server-side", "--filename=-", stdin=spoken.stdout)


def write_pod_kubeconfig(cluster: Cluster, pod: str, path: Path) -> Path:
    """Make a pod (which no node runs) and write a kubeconfig with a token of the operator's ServiceAccount that is bound to it."""
    manifest = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": pod, "namespace": NAMESPACE},
        "spec": {"serviceAccountName": RELEASE, "schedulerName": "nobody", "containers": [{"name": "operator", "image": "x"}]},
    }
    made = cluster.client.request("POST", f"/api/v1/namespaces/{NAMESPACE}/pods", manifest)
    bound = {"apiVersion": "v1", "kind": "Pod", "name": pod, "uid": made["metadata"]["uid"]}
    request = {
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenRequest",
        "spec": {"expirationSeconds": 7200, "boundObjectRef": bound},
    }
    answer = cluster.client.request("POST", f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts/{RELEASE}/token", request)
    config = yaml.safe_load(cluster.kubeconfig.read_text())
    config["users"] = [{"name": config["users"][0]["name"], "user": {"token": answer["status"]["token"]}}]
    path.write_text(yaml.safe_dump(config))
    return path


class Replica(OperatorProcess):
    """One replica. It tells whether it leads, and can be paused."""

    def __init__(self, cluster: Cluster, name: str, folder: Path, lease_seconds: int) -> None:
        folder.mkdir()
        self.name = name
        environment = {
            "FINETUNE_LEASE": LEASE,
            "FINETUNE_LEASE_SECONDS": str(lease_seconds),
            "POD_NAME": name,
            "POD_IP": "127.0.0.1",
            "FINETUNE_WORKERS": "4",
        }
        self.kubeconfig = write_pod_kubeconfig(cluster, name, folder / "kubeconfig")
        super().__init__(self.kubeconfig, folder, environment)

    @property
    def leads(self) -> bool:
        """Whether it says so in its metrics."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.health_port}/metrics", timeout=5) as answer:
            text: str = answer.read().decode()
        return "finetune_leader 1.0" in text

    def pause(self) -> None:
        """Stop its clock hands: not a single instruction runs until :meth:`go_on`."""
        self.send(signal.SIGSTOP)

    def go_on(self) -> None:
        """Let it run again."""
        self.send(signal.SIGCONT)


def read_lease(cluster: Cluster) -> dict[str, Any]:
    """Return the Lease."""
    body: dict[str, Any] = cluster.client.request("GET", LEASE_PATH)
    return body


def wait_holder(cluster: Cluster, name: str, seconds: float) -> float:
    """Wait until the Lease is held by ``name``; return the seconds that it took."""
    began = time.monotonic()
    while (holder := (read_lease(cluster).get("spec") or {}).get("holderIdentity")) != name:
        assert time.monotonic() - began < seconds, f"the Lease is {holder}'s after {seconds:.0f} s, not {name}'s"
        time.sleep(0.05)
    return time.monotonic() - began
