"""Schedulers that place all pods of a group or none, built from their Go modules, as processes beside a control plane.

Each brings its own resource definitions and is set up as its own manifests do; only addresses and files are this machine's.
"""

import os
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from abc import ABC, abstractmethod
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Final, Self

import yaml

from finetune_devcluster import Cluster
from finetune_devcluster.binaries import ensure_binaries
from finetune_devcluster.ports import find_free_ports
from tests.support.go_modules import find_module

START_SECONDS: Final = 120.0


class GangScheduler(ABC):
    """A scheduler for groups, for as long as the block lasts."""

    gang: ClassVar[str]
    """`scheduling.gang` of the runs that are its own."""
    scheduler_name: ClassVar[str]
    """`schedulerName` of their pods."""
    group_resource: ClassVar[str]
    """API path of its PodGroups, below a namespace: `GROUP/VERSION` before it, `podgroups` after."""
    preempts: ClassVar[bool] = True
    """Whether a group of higher priority makes others give way to it."""

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        self._cluster = cluster
        self._folder = folder
        self._processes: list[tuple[subprocess.Popen[bytes], str]] = []
        self.log_path = folder / f"{self.gang}.log"

    @abstractmethod
    def _start(self) -> None:
        """Install what the API server must know, and start the processes."""

    def __enter__(self) -> Self:
        """Start it and wait until it is ready."""
        try:
            self._start()
            deadline = time.monotonic() + START_SECONDS
            for process, health in self._processes:
                while not _answers(health):
                    assert process.poll() is None, f"{self.gang} left:\n{self.read_log()[-6000:]}"
                    assert time.monotonic() < deadline, f"{self.gang} is not ready:\n{self.read_log()[-6000:]}"
                    time.sleep(0.2)
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Stop it. Its objects go with the control plane."""
        self._stop()

    def read_log(self) -> str:
        """Return all that its processes have logged."""
        return self.log_path.read_text()

    def _stop(self) -> None:
        for process, _ in self._processes:
            process.terminate()
        for process, _ in self._processes:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _run(self, binary: str, *flags: str, health: str) -> None:
        words = [str(ensure_binaries([binary])[binary]), *flags]
        with self.log_path.open("ab") as log:
            # An account that may do anything: what it needs of rights is its own manifests' affair.
            environment = {**os.environ, "KUBECONFIG": str(self._cluster.kubeconfig)}
            self._processes.append((subprocess.Popen(words, env=environment, stdout=log, stderr=log), health))

    def _install(self, *definitions: Path) -> None:
        for path in definitions:
            self._cluster.kubectl("apply", "--server-side", "--filename", str(path))
        self._cluster.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=60s")


class Coscheduling(GangScheduler):
    """The scheduler of kubernetes-sigs/scheduler-plugins with the plugin Coscheduling, as a second scheduler."""

    gang = "coscheduling"
    scheduler_name = "scheduler-plugins-scheduler"
    group_resource = "scheduling.x-k8s.io/v1alpha1"

    def _start(self) -> None:
        module = find_module("coscheduling", "sigs.k8s.io/scheduler-plugins")
        self._install(module / "manifests" / "coscheduling" / "crd.yaml")
        config = yaml.safe_load((module / "manifests" / "coscheduling" / "scheduler-config.yaml").read_text())
        config["clientConnection"]["kubeconfig"] = str(self._cluster.kubeconfig)
        config["profiles"][0]["schedulerName"] = self.scheduler_name
        path = self._folder / "coscheduling.yaml"
        path.write_text(yaml.safe_dump(config))
        (port,) = find_free_ports(1)
        flags = ("--bind-address=127.0.0.1", f"--secure-port={port}", f"--cert-dir={self._folder}", "--v=3")
        self._run("coscheduling", f"--config={path}", *flags, health=f"https://127.0.0.1:{port}/readyz")


class Volcano(GangScheduler):
    """Volcano: its scheduler, and its controllers, which make the PodGroups. Its webhooks' checks of pods and PodGroups are the admission
    policies that its chart has in their place."""

    gang = "volcano"
    scheduler_name = "volcano"
    group_resource = "scheduling.volcano.sh/v1beta1"
    preempts = False

    def _configure(self, given: str) -> str:
        """Return the scheduler's configuration; ``given`` is its chart's."""
        return given

    def _start(self) -> None:
        module = find_module("volcano", "volcano.sh/volcano")
        self._install(*sorted((module / "config" / "crd").glob("*/bases/*.yaml")))
        chart = module / "installer" / "helm" / "chart" / "volcano"
        self._install(*(chart / "policy" / f"{kind}-validating.yaml" for kind in ("pods", "podgroups")))
        config = self._folder / "volcano-scheduler.conf"
        config.write_text(self._configure((chart / "config" / "volcano-scheduler.conf").read_text()))
        ports = find_free_ports(2)
        common = [f"--kubeconfig={self._cluster.kubeconfig}", "--leader-elect=false", "--enable-healthz=true", "--v=3"]
        health = [f"http://127.0.0.1:{port}/healthz" for port in ports]
        addresses = [f"--healthz-address=127.0.0.1:{port}" for port in ports]
        self._run("vc-controller-manager", *common, addresses[0], health=health[0])
        extra = (f"--scheduler-conf={config}", "--cache-dumper=false")
        self._run("vc-scheduler", *common, addresses[1], *extra, health=health[1])


class PreemptingVolcano(Volcano):
    """Volcano with the action `preempt`, and without `enqueue`, which would keep out a group that needs room made for it."""

    preempts = True

    def _configure(self, given: str) -> str:
        return str(yaml.safe_dump({**yaml.safe_load(given), "actions": "allocate, preempt, backfill"}))


SCHEDULERS: Final[dict[str, type[GangScheduler]]] = {
    "coscheduling": Coscheduling,
    "volcano": Volcano,
    "volcano-that-preempts": PreemptingVolcano,
}


def _answers(url: str) -> bool:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # it makes its certificate itself; nothing is sent to it
    try:
        with urllib.request.urlopen(url, timeout=2, context=context) as answer:  # noqa: S310  an address of our own
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False
