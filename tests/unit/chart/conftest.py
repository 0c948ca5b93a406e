"""The chart as Helm renders it, with Helm built from the development cluster's pins."""

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from finetune_devcluster.binaries import KUBERNETES_VERSION, ensure_binaries

CHART = Path(__file__).parents[3] / "charts" / "finetune-operator"
IMAGES = {
    "image": {"repository": "registry.test/finetune-operator", "tag": "1.2.3"},
    "trainer": {"image": {"repository": "registry.test/finetune-trainer", "tag": "1.2.3"}},
}

Render = Callable[..., list[dict[str, Any]]]
Helm = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def helm(tmp_path_factory: pytest.TempPathFactory) -> Helm:
    program = ensure_binaries(["helm"])["helm"]

    def run(*words: str, values: dict[str, Any] | None = None) -> subprocess.CompletedProcess[str]:
        path = tmp_path_factory.mktemp("values") / "values.yaml"
        path.write_text(yaml.safe_dump(values or {}))
        return subprocess.run([program, *words, "--values", path], capture_output=True, text=True, timeout=60, check=False)

    return run


@pytest.fixture(scope="session")
def render(helm: Helm) -> Render:
    """Renders the chart with images set and further values, and returns its objects."""

    def run(values: dict[str, Any] | None = None, *, release: str = "finetune-operator") -> list[dict[str, Any]]:
        words = ["template", release, str(CHART), "--namespace", "finetune-system", "--kube-version", KUBERNETES_VERSION]
        spoken = helm(*words, values=_merge(IMAGES, values or {}))
        assert spoken.returncode == 0, spoken.stderr
        return [each for each in yaml.safe_load_all(spoken.stdout) if each]

    return run


def _merge(base: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in other.items():
        merged[key] = _merge(merged[key], value) if isinstance(value, dict) and isinstance(merged.get(key), dict) else value
    return merged
