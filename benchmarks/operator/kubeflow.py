"""Kubeflow Trainer and JobSet themselves, built from their Go modules, as processes beside a benchmark's control plane.

They have what an installation of theirs has: their CRDs, webhooks and runtime, and the rates and the concurrency of their own
configuration. Left out are the choice of a leader, the metrics' port, and the certificates' renewal, of which each process would do once.
"""

import asyncio
import base64
import json
import os
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

import yaml
from harness import Bench, Figures, MeasuredProcess, compute_delays, find_free_port, is_ready, percentile

from finetune_devcluster.binaries import ensure_binaries
from finetune_devcluster.pki import CertificateAuthority
from finetune_operator.kube.client import JOBS, Resource
from tests.support.go_modules import find_module

TRAINER: Final = "github.com/kubeflow/trainer/v2"
JOBSET: Final = "sigs.k8s.io/jobset"
TRAINJOBS: Final = Resource("trainer.kubeflow.org", "v1alpha1", "trainjobs")
JOBSETS: Final = Resource("jobset.x-k8s.io", "v1alpha2", "jobsets")
RUNTIME: Final = "torch-distributed"
AGENTS: Final = ("trainer-controller-manager", "jobset")
START_SECONDS: Final = 120.0
SETTLE_SECONDS: Final = 15.0


def build_trainjob(name: str) -> dict[str, Any]:
    """Return the smallest TrainJob: one pod of the runtime that Kubeflow ships for PyTorch."""
    kind = {"apiVersion": f"{TRAINJOBS.group}/{TRAINJOBS.version}", "kind": "TrainJob"}
    return {**kind, "metadata": {"name": name}, "spec": {"runtimeRef": {"name": RUNTIME}}}


class Kubeflow:
    """Kubeflow on a bench's control plane; between two measurements nothing of it is left but its CRDs."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._folder = bench.scratch / "kubeflow"
        self._binaries = ensure_binaries(["trainer-controller-manager", "jobset"])
        self._trainer, self._jobset = find_module("kubeflow", TRAINER), find_module("kubeflow", JOBSET)
        # Where controller-runtime looks for its certificate: below the folder for temporary files.
        certificates = self._folder / "k8s-webhook-server" / "serving-certs"
        certificates.mkdir(parents=True)
        self._authority = CertificateAuthority(certificates)
        self._authority.issue("tls", "webhooks", hosts=["127.0.0.1"])
        self._ports = {name: find_free_port() for name in self._binaries}
        crds = [self._trainer / "manifests" / "base" / "crds", self._jobset / "config" / "components" / "crd" / "bases"]
        files = [file for folder in crds for file in sorted(folder.glob("*.yaml")) if file.name != "kustomization.yaml"]
        for file in files:
            bench.cluster.kubectl("apply", "--server-side", f"--filename={file}")
        bench.cluster.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=60s")

    @property
    def versions(self) -> str:
        """Of what is measured."""
        return f"Kubeflow Trainer {self._trainer.name.partition('@')[2]}, JobSet {self._jobset.name.partition('@')[2]}"

    async def measure(self, count: int) -> Figures:
        """Let it make the Jobs of ``count`` TrainJobs that are created at once."""
        bench = self._bench
        await bench.wait_for_silence()
        with self._run() as processes:
            await bench.create_all(TRAINJOBS, [build_trainjob("warm-up")])
            await bench.wait_for(JOBS, 1)
            await bench.clear(TRAINJOBS, JOBSETS)
            await asyncio.sleep(2)
            audit, before = bench.audit(), sum(process.cpu_seconds() for process in processes)
            await bench.create_all(TRAINJOBS, (build_trainjob(f"run-{index:05}") for index in range(count)))
            await bench.wait_for(JOBS, count)
            await asyncio.sleep(SETTLE_SECONDS)
            settled = sum(process.cpu_seconds() for process in processes)
            audit.read()
            delays, span = compute_delays(audit, TRAINJOBS.plural)
            figures = {
                "jobs/s": count / span,
                "p99 s": percentile(delays, 0.99),
                "CPU s per 1,000, settled": 1000 * (settled - before) / count,
                "peak MiB": sum(process.peak_mebibytes() for process in processes),
                "writes per job": audit.count(AGENTS).total() / count,
            }
            await bench.clear(TRAINJOBS, JOBSETS)
        return figures

    @contextmanager
    def _run(self) -> Iterator[list[MeasuredProcess]]:
        webhooks = [*self._read_webhooks("trainer-controller-manager"), *self._read_webhooks("jobset")]
        with ExitStack() as stack:
            processes = [stack.enter_context(self._start(name)) for name in self._binaries]
            self._apply(webhooks)
            for each in webhooks:
                stack.callback(self._bench.cluster.kubectl, "delete", each["kind"], each["metadata"]["name"])
            # The webhooks answer by now, and the runtime is checked by one.
            self._bench.cluster.kubectl(
                "apply", "--server-side", f"--filename={self._trainer / 'manifests' / 'base' / 'runtimes' / 'torch_distributed.yaml'}"
            )
            yield processes

    @contextmanager
    def _start(self, name: str) -> Iterator[MeasuredProcess]:
        health = find_free_port()
        environment = {**os.environ, "KUBECONFIG": str(self._bench.cluster.kubeconfig), "TMPDIR": str(self._folder)}
        command = [str(self._binaries[name]), f"--config={self._write_config(name, health)}"]
        if name == "jobset":
            command.append("--metrics-bind-address=0")
        with MeasuredProcess(command, environment, self._bench.scratch / f"{name}.log") as process:
            deadline = time.monotonic() + START_SECONDS
            while not is_ready(health):
                if not process.is_alive or time.monotonic() > deadline:
                    raise RuntimeError(f"{name} is not ready:\n{(self._bench.scratch / f'{name}.log').read_text()[-4000:]}")
                time.sleep(0.2)
            yield process

    def _write_config(self, name: str, health: int) -> Path:
        """Write what both take in the same words; what is not said stays as it is shipped."""
        shipped = {
            "trainer-controller-manager": self._trainer / "manifests" / "base" / "manager" / "controller_manager_config.yaml",
            "jobset": self._jobset / "config" / "components" / "manager" / "controller_manager_config.yaml",
        }
        config = yaml.safe_load(shipped[name].read_text())
        config["health"] = {**config.get("health", {}), "healthProbeBindAddress": f"127.0.0.1:{health}"}
        config["webhook"] = {"host": "127.0.0.1", "port": self._ports[name]}
        config["leaderElection"] = {**config["leaderElection"], "leaderElect": False}
        config["certManagement" if name != "jobset" else "internalCertManagement"] = {"enable": False}
        if name != "jobset":
            config["metrics"] = {"bindAddress": "0"}
        path = self._folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump(config))
        return path

    def _read_webhooks(self, name: str) -> list[dict[str, Any]]:
        """Return its webhooks as its own Kustomize folder renders them, led to this process: there is no Service to it."""
        base = self._jobset / "config" / "components" if name == "jobset" else self._trainer / "manifests" / "base"
        kubectl = str(ensure_binaries(["kubectl"])["kubectl"])
        text = subprocess.run([kubectl, "kustomize", str(base / "webhook")], capture_output=True, text=True, check=True, timeout=60).stdout
        found = [each for each in yaml.safe_load_all(text) if each and each["kind"].endswith("WebhookConfiguration")]
        bundle = base64.b64encode(self._authority.cert.read_bytes()).decode()
        for each in found:
            each["metadata"] = {"name": f"{name}-{each['kind'].removesuffix('WebhookConfiguration').lower()}"}
            for webhook in each["webhooks"]:
                path = webhook["clientConfig"]["service"]["path"]
                webhook["clientConfig"] = {"url": f"https://127.0.0.1:{self._ports[name]}{path}", "caBundle": bundle}
        return found

    def _apply(self, objects: Sequence[dict[str, Any]]) -> None:
        text = json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)})
        self._bench.cluster.kubectl("apply", "--server-side", "--filename=-", stdin=text)
