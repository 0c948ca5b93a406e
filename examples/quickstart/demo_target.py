"""Where the demo runs: what it needs of a cluster, and the development cluster of this repository."""

import json
import os
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from demo_steps import DemoFailed, run, say

from finetune_devcluster.binaries import ensure_binaries
from finetune_devcluster.cluster import Cluster, choose_mode
from finetune_devcluster.image_builder import load_images, require_room_for_images

OPERATOR = "operator"
TRAINER = "trainer"


@dataclass(frozen=True)
class Store:
    """An S3 store: its URL from this machine and from pods."""

    endpoint: str
    pod_endpoint: str
    bucket: str
    access_key: str
    secret_key: str
    region: str = "us-east-1"

    def environment(self, *, pod: bool) -> dict[str, str]:
        """Return the variables by which the AWS libraries find it."""
        return {
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_ENDPOINT_URL": self.pod_endpoint if pod else self.endpoint,
            "AWS_REGION": self.region,
        }


class Target(Protocol):
    """A cluster to show the demo on."""

    @property
    def store(self) -> Store:
        """The S3 store."""

    @property
    def is_own(self) -> bool:
        """Whether the cluster is the demo's own, so that stopping it removes everything."""

    def start(self) -> None:
        """Start it, or find it."""

    def attach(self) -> None:
        """Find it as it is, to clean up."""

    def provide_images(self) -> dict[str, str]:
        """Return the name of each image, by `operator` and `trainer`, which its nodes have or can pull."""

    def stop(self) -> None:
        """Leave it as it was before `start`."""

    def kubectl(self, *words: str, stdin: str | None = None, timeout: float = 60) -> str:
        """Run kubectl."""

    def kubectl_words(self) -> tuple[list[str], dict[str, str]]:
        """Return kubectl's program and environment, to run it otherwise."""

    def helm(self, *words: str, timeout: float = 300) -> str:
        """Run Helm."""

    def describe_writes(self, namespace: str) -> str:
        """Return what the operator wrote in a namespace, where the cluster keeps an audit log."""

    def describe_trouble(self) -> str:
        """Return what only this kind of cluster knows about a failure."""


class Commands:
    """kubectl and Helm, run against one kubeconfig."""

    def __init__(self, programs: Mapping[str, str], env: dict[str, str]) -> None:
        """Use the programs at these paths, by name, with these variables added to the environment."""
        self._programs = programs
        self._env = env

    def kubectl(self, *words: str, stdin: str | None = None, timeout: float = 60) -> str:
        """Run kubectl and return what it printed."""
        return run([self._programs["kubectl"], *words], self._env, stdin, timeout)

    def kubectl_words(self) -> tuple[list[str], dict[str, str]]:
        """Return kubectl's program and environment."""
        return [self._programs["kubectl"]], {**os.environ, **self._env}

    def helm(self, *words: str, timeout: float = 300) -> str:
        """Run Helm and return what it printed."""
        return run([self._programs["helm"], *words], self._env, timeout=timeout)


class DevelopmentCluster(Commands):
    """A cluster of this repository's own, started here."""

    def __init__(self, name: str, mode: str, gpus: int) -> None:
        self._name = name
        self._mode = mode
        self._gpus = gpus
        self._cluster: Cluster | None = None
        super().__init__({}, {})

    is_own = True

    @property
    def cluster(self) -> Cluster:
        """The running cluster."""
        if self._cluster is None:
            raise DemoFailed("the cluster is not up")
        return self._cluster

    @property
    def store(self) -> Store:
        """The cluster's S3 server."""
        found = self.cluster.object_store
        return Store(found.endpoint, found.pod_endpoint, found.bucket, found.access_key, found.secret_key, found.region)

    def start(self) -> None:
        """Build what is missing and start the cluster."""
        mode = choose_mode(self._mode)  # type: ignore[arg-type]
        if mode == "node":
            require_room_for_images()  # before the minutes that the programs take
        programs = ensure_binaries(["kubectl", "helm"])
        self._cluster = Cluster.up(self._name, mode=mode, gpus=self._gpus)
        self._programs = {name: str(path) for name, path in programs.items()}
        self._env = {"KUBECONFIG": str(self.cluster.kubeconfig)}
        say(f"Kubernetes at {self.cluster.server} ({self.cluster.mode}); S3 at {self.store.endpoint}")
        say(f"to look at it yourself meanwhile: export KUBECONFIG={self.cluster.kubeconfig}")
        if self.cluster.mode == "process-node":
            say("This machine runs no containers: pods are local processes here. They show the whole way, but no isolation.")

    def attach(self) -> None:
        """Find the cluster that an earlier run has left, if it has."""
        self._cluster = Cluster.attach(self._name)

    def provide_images(self) -> dict[str, str]:
        """Build the images and load them into the node; without containers, name the local programs that stand in for them."""
        if self.cluster.mode == "node":
            return load_images(self.cluster)
        images = {name: f"localhost/finetune-{name}:local" for name in (OPERATOR, TRAINER)}
        for name, reference in images.items():
            self.cluster.map_image(reference, [f"finetune-{name}"], path=[Path(sys.executable).parent])
        return images

    def stop(self) -> None:
        """Stop the cluster; nothing of it stays but the cache."""
        if self._cluster is not None:
            self._cluster.down()

    def describe_writes(self, namespace: str) -> str:
        """Count the operator's successful writes by verb and resource in the audit log."""
        counts: Counter[str] = Counter()
        for line in self.cluster.audit_log.read_text().splitlines():
            event = json.loads(line)
            target = event.get("objectRef", {})
            done = event["user"]["username"].endswith(":finetune-operator") and event.get("responseStatus", {}).get("code", 500) < 300
            if done and target.get("namespace") == namespace:
                counts["/".join(filter(None, (f"{event['verb']} {target['resource']}", target.get("subresource"))))] += 1
        return ", ".join(f"{count} {what}" for what, count in sorted(counts.items()))

    def describe_trouble(self) -> str:
        """Return the end of the node's log."""
        return f"--- kubelet\n{self.cluster.log('kubelet', 15)}" if self.cluster.mode == "node" else ""


def split_image(reference: str) -> tuple[str, str, str]:
    """Return repository, tag and digest of an image's name; tag or digest may be empty.

    :raises DemoFailed: it has neither.
    """
    if "@" in reference:
        repository, digest = reference.split("@", 1)
        return repository, "", digest
    repository, separator, tag = reference.rpartition(":")
    if not separator or "/" in tag:
        raise DemoFailed(f"image {reference!r} has no tag: write name:tag or name@sha256:…")
    return repository, tag, ""
