"""The manifest that ``finetune init`` writes."""

from collections.abc import Mapping
from typing import Any

import yaml

from finetune_api.names import API_VERSION, KIND
from finetune_api.resource import parse_manifest

Manifest = dict[str, Any]
_WITH_SECRETS = ("s3://", "hf://")


def build_initial_manifest(
    name: str,
    *,
    model: str,
    dataset: str,
    output: str,
    namespace: str | None,
    gpus: int,
    epochs: float | None,
    queue: str | None,
    secret: str | None,
    settings: Mapping[str, object],
) -> Manifest:
    """Return a checked manifest with what was given, and nothing that a default says as well.

    :raises SpecInvalid: names every fault.
    """
    sources: Manifest = {}
    for key, uri in (("model", model), ("dataset", dataset), ("output", output)):
        sources[key] = {"uri": uri}
        if secret is not None and uri.startswith(_WITH_SECRETS):
            sources[key]["credentialsSecret"] = {"name": secret}
    spec: Manifest = {"model": sources["model"], "dataset": sources["dataset"]}
    if epochs is not None:
        spec["training"] = {"epochs": int(epochs) if epochs.is_integer() else epochs}
    spec["resources"] = {"gpus": gpus}
    if queue is not None:
        spec["scheduling"] = {"queueName": queue}
    spec["output"] = sources["output"]
    for path, value in settings.items():
        *parents, last = path.removeprefix("spec.").split(".")
        target = spec
        for parent in parents:
            if not isinstance(target.get(parent), dict):
                target[parent] = {}
            target = target[parent]
        target[last] = value
    metadata = {"name": name} | ({"namespace": namespace} if namespace else {})
    manifest: Manifest = {"apiVersion": API_VERSION, "kind": KIND, "metadata": metadata, "spec": spec}
    parse_manifest(manifest)
    return manifest


def render_manifest(manifest: Manifest) -> str:
    """Return a manifest as YAML, with a word on what is left to the defaults."""
    head = "# QLoRA on all linear layers, unless said otherwise below. Every field: docs/reference/api.md, or kubectl explain ftj.spec\n"
    return head + yaml.safe_dump(manifest, sort_keys=False, allow_unicode=True, width=120)
