"""Building FineTuneJobs in Python."""

from collections.abc import Mapping
from typing import Any

from finetune_api.names import API_VERSION, KIND
from finetune_api.resource import FineTuneJob, parse_manifest

Manifest = dict[str, Any]


def build_job(
    name: str,
    *,
    model: str | Mapping[str, Any],
    dataset: str | Mapping[str, Any],
    output: str | Mapping[str, Any],
    namespace: str | None = None,
    labels: Mapping[str, str] | None = None,
    **spec: Any,  # noqa: ANN401  # the rest of the specification, in the manifest's own names
) -> FineTuneJob:
    """Return a FineTuneJob, held to every rule that can be known without a cluster.

    ``model``, ``dataset`` and ``output`` are URIs, or mappings where there is more to say. Everything else of the specification is given by
    its name in a manifest: ``training={"epochs": 1}``, ``resources={"gpus": 1}``.

    :raises SpecInvalid: names every fault.
    """
    metadata: Manifest = {"name": name}
    if namespace is not None:
        metadata["namespace"] = namespace
    if labels:
        metadata["labels"] = dict(labels)
    sources = {"model": model, "dataset": dataset, "output": output}
    parts = {key: {"uri": value} if isinstance(value, str) else dict(value) for key, value in sources.items()}
    return parse_manifest({"apiVersion": API_VERSION, "kind": KIND, "metadata": metadata, "spec": {**parts, **spec}})


def to_manifest(job: FineTuneJob) -> Manifest:
    """Return ``job`` as a manifest with what was set in it; what was left to a default is left to the server."""
    spec = job.spec.model_dump(mode="json", exclude_unset=True)
    return {"apiVersion": API_VERSION, "kind": KIND, "metadata": dict(job.metadata), "spec": spec}
