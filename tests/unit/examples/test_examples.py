"""Every manifest in examples/ is one that the operator accepts."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from finetune_api.names import SWEEP_KIND
from finetune_api.resource import parse_manifest, parse_spec
from finetune_api.sweep import parse_sweep_manifest
from finetune_api.sweep.trials import check_trials

EXAMPLES = Path(__file__).resolve().parents[3] / "examples"
OTHERS = {EXAMPLES / "serving", *(EXAMPLES / "gitops" / name for name in ("argocd", "flux", "serving"))}
"""Folders of what other programs read."""
MANIFESTS = sorted(path for path in EXAMPLES.rglob("*.yaml") if OTHERS.isdisjoint(path.parents) and path.name != "kustomization.yaml")


class _KubernetesLoader(yaml.SafeLoader):
    """Reads numbers as kubectl does: ``2e-4`` is one, which YAML 1.1 took for text."""


_KubernetesLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?$"), list("-+0123456789.")
)


def load(path: Path) -> list[dict[str, Any]]:
    return [document for document in yaml.load_all(path.read_text(encoding="utf-8"), _KubernetesLoader) if document]


def test_examples_are_there() -> None:
    assert {"quickstart.yaml", "minimal.yaml", "gpu-8b.yaml", "support-bot-2026-11.yaml"} <= {path.name for path in MANIFESTS}


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_example_is_accepted(path: Path) -> None:
    documents = load(path)
    assert documents
    for document in documents:
        if document["kind"] == SWEEP_KIND:
            check_trials(parse_sweep_manifest(document).spec, document["metadata"]["name"])
        else:
            parse_manifest(document)


def test_quickstart_is_qlora_on_the_cpu() -> None:
    spec = parse_spec(load(EXAMPLES / "quickstart.yaml")[0]["spec"])
    assert spec.resources.gpus == 0
    assert (spec.method.quantization.type, spec.method.quantization.double_quant) == ("nf4", True)
    assert spec.training.gradient_checkpointing
    assert spec.training.optimizer == "paged_adamw_8bit"


def test_quickstart_reads_what_is_uploaded() -> None:
    import dataset
    import upload

    spec = parse_spec(load(EXAMPLES / "quickstart.yaml")[0]["spec"])
    assert spec.model.uri == f"s3://finetune/{upload.MODEL_PREFIX}"
    assert spec.dataset.uri == f"s3://finetune/{upload.DATASET_PREFIX}/{dataset.TRAIN_FILE}"
    assert spec.dataset.eval is not None
    assert spec.dataset.eval.uri == f"s3://finetune/{upload.DATASET_PREFIX}/{dataset.HELD_OUT_FILE}"


def test_minimal_says_three_uris_and_no_more() -> None:
    spec = load(EXAMPLES / "minimal.yaml")[0]["spec"]
    assert {name: list(part) for name, part in spec.items()} == {"model": ["uri"], "dataset": ["uri"], "output": ["uri"]}
