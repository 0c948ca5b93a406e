"""The way to a next version of the API: served beside this one, stored as this one, and stored objects that came through it."""

import json
import os
from pathlib import Path

import pytest
import yaml

from finetune_devcluster import Cluster
from finetune_devcluster.errors import DevClusterError
from tests.support.crds import CRD_FOLDER, install_crds
from tests.support.live_run import Object, wait_until
from tests.support.manifests import build_minimal_manifest

pytestmark = pytest.mark.cluster


def _get(cluster: Cluster, version: str, name: str) -> Object | None:
    try:
        body: Object = cluster.client.request("GET", f"/apis/finetune.dev/{version}/namespaces/default/finetunejobs/{name}")
    except DevClusterError:
        return None
    return body


def test_a_second_version_can_be_served_and_taken_back(tmp_path: Path) -> None:
    """v1beta1 comes, with a field of its own; objects go through either version; then the release with v1alpha1 alone is back."""
    with Cluster.up(f"next-{os.getpid()}", state_root=tmp_path, ephemeral=True) as cluster:
        install_crds(cluster)
        today = yaml.safe_load((CRD_FOLDER / "finetunejobs.yaml").read_text())
        (alpha,) = today["spec"]["versions"]
        assert (alpha["name"], alpha["served"], alpha["storage"]) == ("v1alpha1", True, True)
        cluster.kubectl("create", "--filename=-", stdin=json.dumps(build_minimal_manifest("old", "default")))
        before = _get(cluster, "v1alpha1", "old")
        assert before is not None

        beta = json.loads(json.dumps(alpha)) | {"name": "v1beta1", "storage": False}
        beta["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["fromTheFuture"] = {"type": "string"}
        tomorrow = json.loads(json.dumps(today))
        tomorrow["spec"]["versions"].append(beta)
        cluster.kubectl("apply", "--server-side", "--filename=-", stdin=json.dumps(tomorrow))
        wait_until(lambda: _get(cluster, "v1beta1", "old"), "v1beta1 is served")

        through_beta = _get(cluster, "v1beta1", "old")
        assert through_beta is not None
        assert through_beta["spec"] == before["spec"]
        new = build_minimal_manifest("new", "default") | {"apiVersion": "finetune.dev/v1beta1"}
        new["spec"]["fromTheFuture"] = "x"
        cluster.kubectl("create", "--filename=-", stdin=json.dumps(new))
        as_alpha = _get(cluster, "v1alpha1", "new")
        assert as_alpha is not None
        assert "fromTheFuture" not in as_alpha["spec"]

        cluster.kubectl("replace", "--filename=-", stdin=json.dumps(today))
        wait_until(lambda: _get(cluster, "v1beta1", "old") is None, "v1beta1 is served no more")
        for name in ("old", "new"):
            after = _get(cluster, "v1alpha1", name)
            assert after is not None
            assert after["spec"] == before["spec"] | {"output": after["spec"]["output"]}
        assert json.loads(cluster.kubectl("get", "crd", "finetunejobs.finetune.dev", "-o", "json"))["status"]["storedVersions"] == [
            "v1alpha1"
        ]
