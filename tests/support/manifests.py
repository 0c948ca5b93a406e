"""Manifests that tests start from."""

import copy
from typing import Any

Manifest = dict[str, Any]


def build_minimal_manifest(name: str = "minimal", namespace: str | None = None) -> Manifest:
    """Return the smallest manifest that is complete."""
    return {
        "apiVersion": "finetune.dev/v1alpha1",
        "kind": "FineTuneJob",
        "metadata": {"name": name} if namespace is None else {"name": name, "namespace": namespace},
        "spec": {
            "model": {"uri": "hf://example/model"},
            "dataset": {"uri": "s3://team-a/support.jsonl"},
            "output": {"uri": "s3://team-a/adapters/support-bot"},
        },
    }


def build_sweep_manifest(name: str = "sweep", namespace: str | None = None) -> Manifest:
    """Return a sweep over four combinations of two parameters."""
    return {
        "apiVersion": "finetune.dev/v1alpha1",
        "kind": "FineTuneSweep",
        "metadata": {"name": name} if namespace is None else {"name": name, "namespace": namespace},
        "spec": {
            "template": {"spec": build_minimal_manifest()["spec"]},
            "parameters": [
                {"path": "training.learningRate", "values": [1e-4, 2e-4]},
                {"path": "method.adapter.r", "values": [8, 16]},
            ],
        },
    }


def merge(target: Any, patch: Any) -> Any:
    """Return ``target`` with the JSON merge patch ``patch`` (RFC 7386) applied: null removes."""
    if not isinstance(patch, dict):
        return patch
    merged = copy.deepcopy(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = merge(merged.get(key), value)
    return merged
