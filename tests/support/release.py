"""The operator installed by its chart, and what tests do to it."""

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from finetune_devcluster import Cluster, DevClusterError
from finetune_devcluster.binaries import ensure_binaries

CHART: Final = Path(__file__).resolve().parents[2] / "charts" / "finetune-operator"
RESTRICTED: Final = {"pod-security.kubernetes.io/enforce": "restricted"}


class Release:
    """A release of the chart.

    :param images: names of the images of `operator` and `trainer`.
    :param values: values of the chart, by their path.
    """

    def __init__(self, cluster: Cluster, name: str, namespace: str, images: Mapping[str, str], values: Mapping[str, str]) -> None:
        self._cluster = cluster
        self._helm = str(ensure_binaries(["helm"])["helm"])
        self.name = name
        self.namespace = namespace
        self._values = {**values}
        for prefix, target in (("image", "operator"), ("trainer.image", "trainer")):
            self._values[f"{prefix}.repository"], _, self._values[f"{prefix}.tag"] = images[target].rpartition(":")

    @property
    def user(self) -> str:
        """The operator's name in the audit log."""
        return f"system:serviceaccount:{self.namespace}:{self.name}"

    def install(self, **changes: str) -> None:
        """Install or upgrade, with ``changes`` of the values (dots written as two underscores), and wait until it is ready."""
        values = {**self._values, **{name.replace("__", "."): value for name, value in changes.items()}}
        words = ["upgrade", "--install", self.name, str(CHART), "--namespace", self.namespace]
        # Numbers and truth values as such; the rest, tags above all, as text.
        for name, value in values.items():
            words += [
                "--set"
                if (value.isdecimal() and "image" not in name) or value in ("true", "false") or value.startswith("{")
                else "--set-string"
            ]
            words += [f"{name}={value}"]
        self._run_helm(*words)
        self.await_ready()

    def uninstall(self) -> None:
        """Remove it."""
        self._run_helm("uninstall", self.name, "--namespace", self.namespace, "--wait", "--timeout=60s")

    def await_ready(self) -> None:
        """Wait until the operator is ready: long after images were built, the disk has still to write them."""
        try:
            self.kubectl("rollout", "status", f"deployment/{self.name}", "--timeout=240s", timeout=250)
        except DevClusterError as error:
            found = self.kubectl("describe", "pod", "--selector", self._selector)
            raise DevClusterError(f"{error}\n{found}\n{self.log()}") from None

    def scale(self, replicas: int) -> None:
        """Run no operator, or one; returns when that is so."""
        self.kubectl("scale", f"deployment/{self.name}", f"--replicas={replicas}")
        if replicas:
            self.await_ready()
        else:
            self.kubectl("wait", "pod", "--selector", self._selector, "--for=delete", "--timeout=60s", timeout=70)

    def kill(self) -> None:
        """Kill the operator's pod without a word of warning, and wait for the next one."""
        self.kubectl("delete", "pod", "--selector", self._selector, "--grace-period=0", "--force", "--wait=false")
        self.await_ready()

    def list_pods(self) -> list[str]:
        """Return the names of the operator's pods."""
        return self.kubectl("get", "pod", "--selector", self._selector, "--output=name").split()

    def log(self, lines: int = 80) -> str:
        """Return the end of the operator's log."""
        return self.kubectl("logs", "--selector", self._selector, f"--tail={lines}")

    def kubectl(self, *words: str, timeout: float = 60) -> str:
        """Run kubectl in the release's namespace."""
        return self._cluster.kubectl("--namespace", self.namespace, *words, timeout=timeout)

    @property
    def _selector(self) -> str:
        return f"app.kubernetes.io/instance={self.name}"

    def _run_helm(self, *words: str) -> None:
        environment = {**os.environ, "KUBECONFIG": str(self._cluster.kubeconfig)}
        spoken = subprocess.run([self._helm, *words], env=environment, capture_output=True, text=True, timeout=120, check=False)
        assert spoken.returncode == 0, f"helm {' '.join(words)}: {spoken.stderr.strip()}"
