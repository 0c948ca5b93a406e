"""The way without Helm: the same objects as the chart's, and an overlay that works."""

import subprocess
from typing import Any

import yaml

from finetune_devcluster.binaries import ensure_binaries
from tests.support.kustomize_base import BASE, ROOT, render_base
from tests.unit.chart.conftest import Render


def build(folder: str) -> list[dict[str, Any]]:
    """Build a folder as `kubectl apply -k` does."""
    argv = [ensure_binaries(["kubectl"])["kubectl"], "kustomize", str(ROOT / "kustomize" / folder)]
    spoken = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert spoken.returncode == 0, spoken.stderr
    return [each for each in yaml.safe_load_all(spoken.stdout) if each]


def _identify(objects: list[dict[str, Any]]) -> set[tuple[str, str, str]]:
    return {(each["kind"], each["metadata"].get("namespace", ""), each["metadata"]["name"]) for each in objects}


def test_the_base_is_as_generated() -> None:
    """To write it anew: `python -c "from tests.support.kustomize_base import *; BASE.write_text(render_base())"`."""
    assert BASE.read_text() == render_base()


def test_the_base_has_all_that_the_chart_installs_and_the_resources_and_a_namespace(render: Render) -> None:
    others = {("Namespace", "", "finetune-system")}
    others |= {("CustomResourceDefinition", "", f"{plural}.finetune.dev") for plural in ("finetunejobs", "finetunesweeps")}
    assert _identify(build("operator")) == _identify(render()) | others


def test_the_example_sets_both_images_and_keeps_the_rest() -> None:
    base, overlay = build("operator"), build("example")
    assert _identify(base) == _identify(overlay)
    (deployment,) = [each for each in overlay if each["kind"] == "Deployment"]
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    environment = {each["name"]: each.get("value") for each in container["env"]}
    assert container["image"] == "registry.example.com/finetune-operator:0.1.0"
    assert environment["FINETUNE_TRAINER_IMAGE"] == "registry.example.com/finetune-trainer:0.1.0"
    assert environment["FINETUNE_LEASE"] == "finetune-operator"
    assert deployment["spec"]["replicas"] == 2
