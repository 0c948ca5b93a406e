"""The example of a repository for GitOps: built by Kustomize, taken by an API server, and promoted by the copy of one file."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from finetune_devcluster import Cluster
from finetune_devcluster.binaries import ensure_binaries

pytestmark = pytest.mark.cluster

EXAMPLES = Path(__file__).parents[3] / "examples"
STAGES = ("staging", "production")


def build(folder: Path) -> list[dict[str, Any]]:
    """Return what Kustomize, as kubectl has it, makes of a folder."""
    kubectl = ensure_binaries(["kubectl"])["kubectl"]
    spoken = subprocess.run([kubectl, "kustomize", folder], capture_output=True, text=True, timeout=60, check=False)
    assert spoken.returncode == 0, spoken.stderr
    return list(yaml.safe_load_all(spoken.stdout))


def find(kind: str, bodies: list[dict[str, Any]]) -> dict[str, Any]:
    (found,) = (body for body in bodies if body["kind"] == kind)
    return found


def read_adapter(stage: Path) -> dict[str, str]:
    data: dict[str, str] = yaml.safe_load((stage / "adapter.yaml").read_text())["data"]
    return data


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A copy of the layout that may be changed."""
    shutil.copytree(EXAMPLES, tmp_path / "examples")
    return tmp_path / "examples" / "gitops"


@pytest.mark.parametrize("folder", ["training/team-a", *(f"serving/{stage}" for stage in STAGES)])
def test_what_is_trained_and_served_is_what_the_api_server_takes(folder: str, control_plane: Cluster, namespace: str) -> None:
    bodies = build(EXAMPLES / "gitops" / folder)
    for body in bodies:
        body["metadata"]["namespace"] = namespace
    several = {"apiVersion": "v1", "kind": "List", "items": bodies}
    control_plane.kubectl("apply", "--server-side", "--dry-run=server", "--filename=-", stdin=json.dumps(several))


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_serves_the_adapter_that_its_file_names(stage: str) -> None:
    folder = EXAMPLES / "gitops" / "serving" / stage
    adapter = read_adapter(folder)
    bodies = build(folder)
    pod = find("Deployment", bodies)["spec"]["template"]["spec"]
    fetch, verify = pod["initContainers"]
    assert fetch["args"] == ["s3", "cp", "--recursive", "--only-show-errors", adapter["uri"], "/adapters/support-bot"]
    assert {"name": "DIGEST", "value": adapter["digest"]} in verify["env"]
    assert {body["metadata"]["namespace"] for body in bodies} == {f"support-bot-{stage}"}
    run = adapter["run"].rpartition("/")[2]
    assert adapter["uri"].endswith(f"/{run}/adapter")


def test_a_copy_of_one_file_promotes_and_the_pods_are_made_anew(repository: Path) -> None:
    staging, production = (repository / "serving" / stage for stage in STAGES)
    before = find("Deployment", build(production))
    shutil.copy(staging / "adapter.yaml", production / "adapter.yaml")
    after = find("Deployment", build(production))
    assert before["spec"]["template"] != after["spec"]["template"]
    served = find("Deployment", build(staging))["spec"]["template"]
    assert after["spec"]["template"] == served, "what was tried in staging is what production has"


def test_what_staging_serves_was_trained_in_this_repository() -> None:
    adapter = read_adapter(EXAMPLES / "gitops" / "serving" / "staging")
    runs = build(EXAMPLES / "gitops" / "training" / "team-a")
    outputs = {f"{run['metadata']['namespace']}/{run['metadata']['name']}": run["spec"]["output"]["uri"] for run in runs}
    assert f"{outputs[adapter['run']]}/adapter" == adapter["uri"]


def test_argo_cd_is_given_the_health_of_both_kinds() -> None:
    script = (EXAMPLES / "gitops" / "argocd" / "health.lua").read_text()
    data = find("ConfigMap", build(EXAMPLES / "gitops" / "argocd"))["data"]
    assert data == {f"resource.customizations.health.finetune.dev_{kind}": script for kind in ("FineTuneJob", "FineTuneSweep")}


def test_argo_cd_and_flux_are_sent_to_the_same_folders_and_they_are_there() -> None:
    applications = [body for body in build(EXAMPLES / "gitops" / "argocd") if body["kind"] == "Application"]
    flux = list(yaml.safe_load_all((EXAMPLES / "gitops" / "flux" / "kustomizations.yaml").read_text()))
    folders = {application["metadata"]["name"]: application["spec"]["source"]["path"] for application in applications}
    assert {each["metadata"]["name"]: each["spec"]["path"].removeprefix("./") for each in flux} == folders
    for application in applications:
        folder = EXAMPLES.parent / application["spec"]["source"]["path"]
        assert {body["metadata"]["namespace"] for body in build(folder)} == {application["spec"]["destination"]["namespace"]}
