"""Where the demo runs: the development cluster of this repository, or whatever the current kubeconfig names."""

import json
import os
import shutil
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from demo_steps import DemoFailed, run, say

from finetune_devcluster.binaries import ensure_binaries
from finetune_devcluster.cluster import Cluster
from finetune_devcluster.image_builder import load_images, push_images

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


class _Commands:
    """kubectl and Helm, run against one kubeconfig."""

    def __init__(self, programs: Mapping[str, str], env: dict[str, str]) -> None:
        self._programs = programs
        self._env = env

    def kubectl(self, *words: str, stdin: str | None = None, timeout: float = 60) -> str:
        return run([self._programs["kubectl"], *words], self._env, stdin, timeout)

    def kubectl_words(self) -> tuple[list[str], dict[str, str]]:
        return [self._programs["kubectl"]], {**os.environ, **self._env}

    def helm(self, *words: str, timeout: float = 300) -> str:
        return run([self._programs["helm"], *words], self._env, timeout=timeout)


class DevelopmentCluster(_Commands):
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
        programs = ensure_binaries(["kubectl", "helm"])
        self._cluster = Cluster.up(self._name, mode=self._mode, gpus=self._gpus)  # type: ignore[arg-type]
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


class CurrentCluster(_Commands):
    """The cluster of the current kubeconfig: kind, k3d, a cloud. It needs images that it can pull, and an S3 store."""

    is_own = False

    def __init__(self) -> None:
        missing = [name for name in ("kubectl", "helm") if shutil.which(name) is None]
        programs = {name: str(path) for name, path in ensure_binaries(missing).items()} if missing else {}
        super().__init__({name: programs.get(name) or str(shutil.which(name)) for name in ("kubectl", "helm")}, {})

    @property
    def store(self) -> Store:
        """The store that the environment names.

        :raises DemoFailed: it names none.
        """
        endpoint = os.environ.get("AWS_ENDPOINT_URL", "")
        key, secret = os.environ.get("AWS_ACCESS_KEY_ID", ""), os.environ.get("AWS_SECRET_ACCESS_KEY", "")
        if not (endpoint and key and secret):
            raise DemoFailed(
                "with CLUSTER=current the demo needs an S3 store that both this machine and pods reach: set AWS_ENDPOINT_URL, "
                "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (and POD_ENDPOINT_URL where pods know it by another URL); "
                "it uses the bucket `finetune`, which it makes if it is missing"
            )
        pod_endpoint = os.environ.get("POD_ENDPOINT_URL", endpoint)
        return Store(endpoint, pod_endpoint, "finetune", key, secret, os.environ.get("AWS_REGION", "us-east-1"))

    def start(self) -> None:
        """Look whether the cluster and the store are there."""
        version = json.loads(self.kubectl("version", "--output=json"))["serverVersion"]["gitVersion"]
        context = self.kubectl("config", "current-context").strip()
        say(f"context {context}, Kubernetes {version}; S3 at {self.store.endpoint}")

    def attach(self) -> None:
        """Do nothing: it is there or not."""

    def provide_images(self) -> dict[str, str]:
        """Return the images that the environment names, or build them and push them to the registry that it names."""
        named = {name: os.environ.get(f"{name.upper()}_IMAGE", "") for name in (OPERATOR, TRAINER)}
        if all(named.values()):
            return named
        if registry := os.environ.get("IMAGE_REGISTRY"):
            return push_images(registry)
        raise DemoFailed(
            "with CLUSTER=current the cluster must be able to pull the images: set IMAGE_REGISTRY (host and path) to have them built and "
            "pushed there, or OPERATOR_IMAGE and TRAINER_IMAGE to images that it has (for kind: docker build, then kind load docker-image)"
        )

    def stop(self) -> None:
        """Leave the cluster alone: what the demo put into it is removed before."""

    def describe_writes(self, namespace: str) -> str:  # noqa: ARG002 - others may keep an audit log
        """Return nothing: the audit log is the cluster's own."""
        return ""

    def describe_trouble(self) -> str:
        """Return nothing: kubectl says all there is."""
        return ""


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
