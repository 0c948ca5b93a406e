"""The operator as a process of its own, with the rights that the chart gives it and nothing more."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import yaml

from finetune_devcluster import Cluster
from finetune_devcluster.binaries import ensure_binaries
from finetune_devcluster.ports import find_free_ports

NAMESPACE: Final = "finetune-system"
RELEASE: Final = "finetune-operator"
USER: Final = f"system:serviceaccount:{NAMESPACE}:{RELEASE}"
TLS_SECRET: Final = f"{RELEASE}-tls"
START_SECONDS: Final = 60.0
_CHART: Final = Path(__file__).parents[2] / "charts" / "finetune-operator"


def install_rights(cluster: Cluster, namespace: str = NAMESPACE, watch: str = "", more: str = "") -> None:
    """Give the operator's ServiceAccount the chart's rights, as `helm template` renders them, and its empty Secret.

    ``watch`` is the one namespace that the operator is installed for, if it isn't for all; ``more`` are further
    values, as `helm --set` takes them.
    """
    parts = ("rbac", "serviceaccount", "tls-secret", "lease")
    words = [
        "template",
        RELEASE,
        str(_CHART),
        "--namespace",
        namespace,
        "--kube-version=1.35",
        "--set=image.repository=x,trainer.image.repository=y",
    ]
    words += [f"--set={more}"] if more else []
    words += [f"--set=watchNamespaces={{{watch}}}"] if watch else []
    words += [f"--show-only=templates/{part}.yaml" for part in parts]
    helm = ensure_binaries(["helm"])["helm"]
    manifests = subprocess.run([str(helm), *words], capture_output=True, text=True, check=True, timeout=60).stdout
    cluster.kubectl("create", "namespace", namespace)
    cluster.kubectl("apply", "--filename=-", stdin=manifests)


def write_kubeconfig(cluster: Cluster, path: Path, namespace: str = NAMESPACE) -> Path:
    """Write a kubeconfig with a token of the operator's ServiceAccount."""
    request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 7200}}
    answer = cluster.client.request("POST", f"/api/v1/namespaces/{namespace}/serviceaccounts/{RELEASE}/token", request)
    config = yaml.safe_load(cluster.kubeconfig.read_text())
    config["users"] = [{"name": config["users"][0]["name"], "user": {"token": answer["status"]["token"]}}]
    path.write_text(yaml.safe_dump(config))
    return path


class OperatorProcess:
    """`finetune-operator`, started, stopped, killed and started again. As a context manager it ends with the block."""

    def __init__(self, kubeconfig: Path, folder: Path, environment: Mapping[str, str] | None = None) -> None:
        self.report_port, self.health_port = find_free_ports(2)
        self.log_path = folder / "operator.log"
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("FINETUNE_", "KUBERNETES_"))},
            "KUBECONFIG": str(kubeconfig),
            "FINETUNE_TRAINER_IMAGE": "registry.example.com/finetune-trainer:1",
            "FINETUNE_OPERATOR_NAMESPACE": NAMESPACE,
            "FINETUNE_TLS_SECRET": TLS_SECRET,
            "FINETUNE_REPORT_SERVICE": f"localhost:{self.report_port}",
            "FINETUNE_REPORT_PORT": str(self.report_port),
            "FINETUNE_HEALTH_PORT": str(self.health_port),
            "FINETUNE_TRAINER_GRACE_SECONDS": "5",
            **(environment or {}),
        }
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> float:
        """Start it and return the seconds until it was ready."""
        began = time.monotonic()
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen([sys.executable, "-m", "finetune_operator"], env=self._environment, stdout=log, stderr=log)
        while not self._is_ready():
            code = self._process.poll()
            assert code is None, f"the operator left with {code}:\n{self.read_log()}"
            assert time.monotonic() - began < START_SECONDS, f"the operator is not ready:\n{self.read_log()}"
            time.sleep(0.05)
        return time.monotonic() - began

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """End it by a signal and return its exit status."""
        if self._process is None:
            return 0
        self._process.send_signal(number)
        try:
            return self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise AssertionError(f"the operator did not end on {number.name}:\n{self.read_log()[-5000:]}") from None
        finally:
            self._process = None

    def send(self, number: signal.Signals) -> None:
        """Send it a signal and go on."""
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        """End it without a word of warning."""
        self.stop(signal.SIGKILL)

    def read_log(self) -> str:
        """Return all that it has logged."""
        return self.log_path.read_text()

    def read_records(self) -> list[dict[str, Any]]:
        """Return what it has logged, record by record."""
        return [json.loads(line) for line in self.read_log().splitlines() if line.startswith("{")]

    def _is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.health_port}/readyz", timeout=2) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def __enter__(self) -> Self:
        """Start it."""
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Stop it."""
        self.stop()
