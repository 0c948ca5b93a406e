"""Kubeconfig files, written as JSON, which every reader of YAML reads."""

import base64
from pathlib import Path
from typing import Any

from finetune_devcluster.files import write_json
from finetune_devcluster.pki import KeyPair


def build_kubeconfig(server: str, ca: bytes, cert: bytes, key: bytes, user: str, namespace: str) -> dict[str, Any]:
    """Build a kubeconfig that carries its certificates inside, so that it can be copied anywhere."""

    def encode(value: bytes) -> str:
        return base64.b64encode(value).decode()

    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "finetune", "cluster": {"server": server, "certificate-authority-data": encode(ca)}}],
        "users": [
            {"name": user, "user": {"client-certificate-data": encode(cert), "client-key-data": encode(key)}},
        ],
        "contexts": [
            {"name": "finetune", "context": {"cluster": "finetune", "user": user, "namespace": namespace}},
        ],
        "current-context": "finetune",
    }


def write_kubeconfig(path: Path, server: str, ca: Path, pair: KeyPair, user: str, namespace: str = "default") -> Path:
    """Write a kubeconfig that only its owner can read, and return its path."""
    config = build_kubeconfig(server, ca.read_bytes(), pair.cert.read_bytes(), pair.key.read_bytes(), user, namespace)
    return write_json(path, config, mode=0o600)
