"""kustomize/operator/operator.yaml: the chart with its default values, without the marks of Helm."""

import subprocess
from pathlib import Path
from typing import Any, Final

import yaml

from finetune_devcluster.binaries import KUBERNETES_VERSION, ensure_binaries

ROOT: Final = Path(__file__).parents[2]
BASE: Final = ROOT / "kustomize" / "operator" / "operator.yaml"
_IMAGES: Final = "image.repository=finetune-operator,trainer.image.repository=finetune-trainer"
_HEADER: Final = "# Generated from charts/finetune-operator with its default values; see kustomization.yaml.\n"


def render_base() -> str:
    """Return the base."""
    argv = [str(ensure_binaries(["helm"])["helm"]), "template", "finetune-operator", str(ROOT / "charts" / "finetune-operator")]
    argv += ["--namespace=finetune-system", f"--kube-version={KUBERNETES_VERSION}", f"--set={_IMAGES}"]
    rendered = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=60).stdout
    objects = [_without_helm(each) for each in yaml.safe_load_all(rendered) if each]
    return _HEADER + yaml.safe_dump_all(objects, sort_keys=False, width=140)


def _without_helm(body: dict[str, Any]) -> dict[str, Any]:
    places = [body["metadata"]]
    if body["kind"] == "Deployment":
        places.append(body["spec"]["template"]["metadata"])
    for labels in (place.get("labels", {}) for place in places):
        labels.pop("helm.sh/chart", None)
        if labels.get("app.kubernetes.io/managed-by") == "Helm":
            labels["app.kubernetes.io/managed-by"] = "kustomize"
    return body
