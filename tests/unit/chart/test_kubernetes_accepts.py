"""What the chart renders, against the schemas of each Kubernetes release and of the operators that it makes objects for."""

import subprocess
from pathlib import Path

import pytest
import yaml

from finetune_devcluster.binaries import ensure_binaries
from finetune_devcluster.schemas import LOCATION, RELEASES, ensure_schemas
from tests.unit.chart.conftest import CHART, Helm

VALUE_SETS = sorted((CHART / "ci").glob("*-values.yaml"))
OTHERS = ("ServiceMonitor", "PodMonitor", "PrometheusRule", "ResourceFlavor", "ClusterQueue", "LocalQueue")
"""Kinds of the Prometheus operator and of Kueue."""


def _render(helm: Helm, values: Path, version: str) -> str:
    words = ["template", "finetune-operator", str(CHART), "--namespace", "finetune-system", "--kube-version", version, "--include-crds"]
    spoken = helm(*words, values=yaml.safe_load(values.read_text()))
    assert spoken.returncode == 0, spoken.stderr
    return spoken.stdout


def _check(folder: Path, manifests: str, *skipped: str) -> subprocess.CompletedProcess[str]:
    argv = [ensure_binaries(["kubeconform"])["kubeconform"], "-strict", "-summary", f"-schema-location={folder}/{LOCATION}"]
    return subprocess.run([*argv, f"-skip={','.join(skipped)}"], input=manifests, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("version", RELEASES)
def test_every_object_of_every_set_of_values_is_one_that_the_release_knows(helm: Helm, version: str) -> None:
    rendered = "\n---\n".join(_render(helm, values, version) for values in VALUE_SETS)
    spoken = _check(ensure_schemas(version), rendered, *OTHERS)
    assert spoken.returncode == 0, spoken.stdout + spoken.stderr
    assert "Invalid: 0, Errors: 0" in spoken.stdout


def test_a_field_that_there_is_not_is_found(helm: Helm) -> None:
    rendered = _render(helm, VALUE_SETS[0], "v1.35.4").replace("automountServiceAccountToken: true", "automountServiceAccountTokens: true")
    spoken = _check(ensure_schemas("v1.35.4"), rendered, *OTHERS)
    assert spoken.returncode != 0
    assert "automountServiceAccountTokens" in spoken.stdout


def test_monitors_rules_and_queues_are_what_their_operators_types_have(helm: Helm) -> None:
    rendered = "\n---\n".join(_render(helm, values, "v1.35.4") for values in VALUE_SETS)
    program = ensure_binaries(["strict-decoder"])["strict-decoder"]
    spoken = subprocess.run([program], input=rendered, capture_output=True, text=True, timeout=60, check=False)
    assert spoken.returncode == 0, spoken.stderr
    assert set(spoken.stdout.split()) == set(OTHERS)


def test_a_field_that_a_monitor_has_not_is_found() -> None:
    program = ensure_binaries(["strict-decoder"])["strict-decoder"]
    text = "apiVersion: monitoring.coreos.com/v1\nkind: PodMonitor\nspec: {podMetricsEndpoint: []}\n"
    spoken = subprocess.run([program], input=text, capture_output=True, text=True, timeout=60, check=False)
    assert spoken.returncode != 0
    assert "podMetricsEndpoint" in spoken.stderr
