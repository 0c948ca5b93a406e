"""The demo on the cluster of the current kubeconfig: kind, k3d, a cloud.

Such a cluster needs two things that the development cluster has by itself: images that its nodes can get, and an S3 store. Images go into
kind and k3d directly, elsewhere through a registry. The store is the one that the environment names, or one made in the cluster.
"""

import json
import os
import platform
import re
import secrets
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from demo_steps import DemoFailed, run, say
from demo_target import OPERATOR, TRAINER, Commands, Store

from finetune_devcluster.binaries import compute_architecture, ensure_binaries
from finetune_devcluster.buildah import copy_image
from finetune_devcluster.image_builder import compute_key, push_images
from finetune_devcluster.images import make_single_file_image

ROOT = Path(__file__).resolve().parents[2]
STORE_NAMESPACE = "finetune-quickstart-s3"
STORE_NAME = "s3"
STORE_PORT = 7070
_USER = 65535
"""User of the store's image."""


class CurrentCluster(Commands):
    """The cluster of the current kubeconfig."""

    is_own = False

    def __init__(self) -> None:
        """Find kubectl and Helm, on the PATH or in the cache."""
        missing = [name for name in ("kubectl", "helm") if shutil.which(name) is None]
        built = {name: str(path) for name, path in ensure_binaries(missing).items()} if missing else {}
        super().__init__({name: built.get(name) or str(shutil.which(name)) for name in ("kubectl", "helm")}, {})
        self._store = _read_store()
        self._forward: subprocess.Popen[str] | None = None
        self._context = ""

    @property
    def store(self) -> Store:
        """The S3 store.

        :raises DemoFailed: it is not made yet.
        """
        if self._store is None:
            raise DemoFailed("the S3 store is not there yet")
        return self._store

    def start(self) -> None:
        """Look whether the cluster is there."""
        version = json.loads(self.kubectl("version", "--output=json"))["serverVersion"]["gitVersion"]
        self.attach()
        say(f"context {self._context}, Kubernetes {version}")

    def attach(self) -> None:
        """Find out the context."""
        self._context = self.kubectl("config", "current-context").strip()

    def provide_images(self) -> dict[str, str]:
        """Build the images and bring them to the cluster, unless the environment names images that it has; make the store."""
        named = {name: os.environ.get(f"{name.upper()}_IMAGE", "") for name in (OPERATOR, TRAINER)}
        images = named if all(named.values()) else self._bring_images()
        if self._store is None:
            self._store = self._make_store(os.environ.get("S3_IMAGE") or self._bring_store_image())
        say(f"S3 store: {self._store.pod_endpoint}, from here {self._store.endpoint}")
        return images

    def stop(self) -> None:
        """Remove the store, if the demo made it, and leave the cluster alone."""
        if self._forward is not None:
            self._forward.terminate()
            self._forward.wait(timeout=20)
        if _read_store() is None:
            self.kubectl("delete", "namespace", STORE_NAMESPACE, "--ignore-not-found", "--timeout=120s", timeout=150)

    def describe_writes(self, namespace: str) -> str:  # noqa: ARG002 - the development cluster keeps an audit log
        """Return nothing: the audit log is the cluster's own."""
        return ""

    def describe_trouble(self) -> str:
        """Return nothing: kubectl says all there is."""
        return ""

    def _bring_images(self) -> dict[str, str]:
        if registry := os.environ.get("IMAGE_REGISTRY"):
            return push_images(registry)
        loader = _find_loader(self._context)
        if loader is None or shutil.which("docker") is None:
            raise DemoFailed(
                "the cluster must be able to get the images: set IMAGE_REGISTRY (host and path) to have them built and pushed there, or "
                "OPERATOR_IMAGE and TRAINER_IMAGE (and S3_IMAGE, if there is no S3 store) to images that it has. With kind and k3d, "
                "Docker is enough"
            )
        images = {}
        for name in (OPERATOR, TRAINER):
            images[name] = f"localhost/finetune-{name}:{compute_key(ROOT, name, 'docker')}"
            say(f"docker build --target {name}; the first time it takes minutes")
            run(["docker", "build", "--quiet", "--target", name, "--tag", images[name], ROOT], timeout=3600)
            run([word.format(images[name]) for word in loader], timeout=1800)
        return images

    def _bring_store_image(self) -> str:
        """Make the image of the S3 server from its program alone, and bring it to the cluster."""
        program = ensure_binaries(["versitygw"])["versitygw"]
        reference = f"localhost/finetune-s3:{program.parent.name.rsplit('-', 1)[1]}"
        with tempfile.TemporaryDirectory(prefix="finetune-s3-") as scratch:
            archive = Path(scratch, "s3.tar")
            make_single_file_image(archive, program, compute_architecture(platform.machine()), reference)
            if registry := os.environ.get("IMAGE_REGISTRY"):
                target = f"{registry.rstrip('/')}/{reference.removeprefix('localhost/')}"
                copy_image(f"oci-archive:{archive}", f"docker://{target}", f"pushing {target}", Path(scratch))
                return target
            loader = _find_archive_loader(self._context)
            if loader is None:
                raise DemoFailed(
                    "an S3 store is needed that this machine and pods reach: set AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID and "
                    "AWS_SECRET_ACCESS_KEY (and POD_ENDPOINT_URL where pods know it by another URL), or IMAGE_REGISTRY to have one made"
                )
            run([word.format(archive) for word in loader], timeout=300)
        return reference

    def _make_store(self, image: str) -> Store:
        """Run an S3 server in the cluster, and a tunnel to it from here."""
        keys = ("finetune-demo", secrets.token_hex(16))
        manifest = {"apiVersion": "v1", "kind": "List", "items": build_store(image, *keys)}
        self.kubectl("apply", "--server-side", "--force-conflicts", "--filename=-", stdin=json.dumps(manifest))
        words = ["--namespace", STORE_NAMESPACE, "rollout", "status", f"deployment/{STORE_NAME}", "--timeout=120s"]
        self.kubectl(*words, timeout=150)
        program, env = self.kubectl_words()
        words = [*program, "--namespace", STORE_NAMESPACE, "port-forward", f"service/{STORE_NAME}", f":{STORE_PORT}"]
        self._forward = subprocess.Popen(words, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        line = self._forward.stdout.readline() if self._forward.stdout else ""
        found = re.search(r"127\.0\.0\.1:(\d+)", line)
        if found is None:
            raise DemoFailed(f"kubectl port-forward to the S3 store failed: {line.strip()}")
        return Store(f"http://127.0.0.1:{found[1]}", f"http://{STORE_NAME}.{STORE_NAMESPACE}.svc:{STORE_PORT}", "finetune", *keys)


def build_store(image: str, access_key: str, secret_key: str) -> list[dict[str, Any]]:
    """Build the objects of an S3 server (versitygw over an emptyDir), which a pod under the restricted standard can be."""
    labels = {"app.kubernetes.io/name": "finetune-quickstart-s3"}
    meta = {"name": STORE_NAME, "namespace": STORE_NAMESPACE, "labels": labels}
    container = {
        "name": STORE_NAME,
        "image": image,
        "args": [f"--port=:{STORE_PORT}", "--quiet", "--keep-alive", "posix", "--sidecar=/store/metadata", "/store/data"],
        "env": [
            {"name": name, "valueFrom": {"secretKeyRef": {"name": STORE_NAME, "key": name}}}
            for name in ("ROOT_ACCESS_KEY", "ROOT_SECRET_KEY")
        ],
        "ports": [{"containerPort": STORE_PORT}],
        "readinessProbe": {"tcpSocket": {"port": STORE_PORT}, "periodSeconds": 1},
        "volumeMounts": [{"name": name, "mountPath": f"/store/{name}"} for name in ("data", "metadata")],
        "securityContext": {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}},
    }
    pod = {
        "automountServiceAccountToken": False,
        "securityContext": {"runAsNonRoot": True, "runAsUser": _USER, "fsGroup": _USER, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [container],
        "volumes": [{"name": name, "emptyDir": {"sizeLimit": "2Gi"}} for name in ("data", "metadata")],
    }
    deployment = {"replicas": 1, "selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels}, "spec": pod}}
    return [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": STORE_NAMESPACE}},
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": meta,
            "stringData": {"ROOT_ACCESS_KEY": access_key, "ROOT_SECRET_KEY": secret_key},
        },
        {"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": {"selector": labels, "ports": [{"port": STORE_PORT}]}},
        {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": meta, "spec": deployment},
    ]


def _read_store() -> Store | None:
    """Return the store that the environment names; None where it names none."""
    endpoint = os.environ.get("AWS_ENDPOINT_URL", "")
    key, secret = os.environ.get("AWS_ACCESS_KEY_ID", ""), os.environ.get("AWS_SECRET_ACCESS_KEY", "")
    if not (endpoint and key and secret):
        return None
    pod_endpoint = os.environ.get("POD_ENDPOINT_URL", endpoint)
    return Store(endpoint, pod_endpoint, "finetune", key, secret, os.environ.get("AWS_REGION", "us-east-1"))


def _find_loader(context: str) -> list[str] | None:
    """Return the command that brings an image of Docker's into the cluster of a context; None where none is known."""
    kind, _, name = context.partition("-")
    if kind == "kind":
        return ["kind", "load", "docker-image", "{}", "--name", name]
    return ["k3d", "image", "import", "{}", "--cluster", name] if kind == "k3d" else None


def _find_archive_loader(context: str) -> list[str] | None:
    """Return the command that brings an image archive into the cluster of a context; None where none is known."""
    kind, _, name = context.partition("-")
    if kind == "kind":
        return ["kind", "load", "image-archive", "{}", "--name", name]
    return ["k3d", "image", "import", "{}", "--cluster", name] if kind == "k3d" else None
