"""The chart as it is published: packed, pushed to an OCI registry, and installed from there."""

import os
import subprocess
from pathlib import Path

import pytest
import yaml

from finetune_devcluster.binaries import KUBERNETES_VERSION, ensure_binaries
from tests.support.registry_server import run_registry

pytestmark = pytest.mark.cluster  # no cluster is asked; its registry is

CHART = Path(__file__).parents[3] / "charts" / "finetune-operator"
IMAGES = "--set=image.repository=registry.test/operator,trainer.image.repository=registry.test/trainer"


def test_the_chart_from_a_registry_is_the_chart(tmp_path: Path) -> None:
    program = ensure_binaries(["helm"])["helm"]
    environment = {**os.environ, "HELM_REGISTRY_CONFIG": str(tmp_path / "registry.json"), "HELM_CACHE_HOME": str(tmp_path / "cache")}

    def helm(*words: str | Path) -> str:
        spoken = subprocess.run([program, *words], env=environment, capture_output=True, text=True, timeout=60, check=False)
        assert spoken.returncode == 0, spoken.stderr
        return spoken.stdout

    def render(*chart: str | Path) -> str:
        return helm("template", "x", *chart, f"--kube-version={KUBERNETES_VERSION}", "--include-crds", IMAGES)

    version = yaml.safe_load((CHART / "Chart.yaml").read_text())["version"]
    with run_registry(tmp_path / "registry") as url:
        address = f"oci://{url.removeprefix('http://')}/charts"
        helm("package", CHART, "--destination", tmp_path)
        helm("push", tmp_path / f"finetune-operator-{version}.tgz", address, "--plain-http")
        published = render(f"{address}/finetune-operator", "--version", version, "--plain-http")
    assert published == render(CHART)
