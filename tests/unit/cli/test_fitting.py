"""What a run is estimated to need becomes what it asks for."""

import json
from pathlib import Path
from typing import Any

import pytest

from finetune_api.estimate import ShapeUnknown, compute_estimate, read_shape
from finetune_api.quantity import parse_quantity
from finetune_api.resource import parse_manifest
from finetune_cli.fitting import build_fitted
from tests.support.manifests import Manifest, build_minimal_manifest, merge
from tests.unit.cli.test_commands import CONFIG


def _manifest(folder: Path, spec: Manifest | None = None, **config: Any) -> Manifest:
    (folder / "config.json").write_text(json.dumps(CONFIG | config))
    return merge(build_minimal_manifest("bot"), {"spec": {"model": {"uri": f"file://{folder}"}, **(spec or {})}})


def test_the_estimate_is_asked_for_and_nothing_else_changes(tmp_path: Path) -> None:
    manifest = _manifest(tmp_path, {"resources": {"memory": "32Gi"}})
    fitted = build_fitted(manifest)
    asked = parse_quantity(fitted["spec"]["resources"].pop("minGpuMemory"))
    needed = compute_estimate(read_shape(CONFIG), parse_manifest(manifest).spec).total_bytes
    assert needed <= asked < needed + 2**20
    assert fitted == manifest


@pytest.mark.parametrize(
    "resources",
    [{"minGpuMemory": "10Gi"}, {"gpus": 0}, {"gpuClaimTemplate": "one-gpu"}],
    ids=["said already", "no GPU", "claimed by template"],
)
def test_what_is_said_already_stays(tmp_path: Path, resources: Manifest) -> None:
    manifest = _manifest(tmp_path, {"resources": resources})
    assert build_fitted(manifest) is manifest


def test_a_model_that_is_not_known_is_refused_rather_than_guessed(tmp_path: Path) -> None:
    with pytest.raises(ShapeUnknown, match="mamba"):
        build_fitted(_manifest(tmp_path, model_type="mamba"))
