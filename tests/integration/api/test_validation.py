"""The API server refuses wrong manifests by the CRD alone, and says which field is wrong."""

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from finetune_api.resource import parse_spec
from finetune_devcluster import Cluster, DevClusterError
from tests.support.bad_manifests import BadManifest, load_bad_manifests
from tests.support.manifests import Manifest, build_minimal_manifest

pytestmark = pytest.mark.cluster

TABLE = load_bad_manifests("server")


def create_dry(cluster: Cluster, namespace: str, manifest: Manifest) -> Any:
    """Ask the API server to check ``manifest`` as `kubectl apply --dry-run=server` does."""
    path = f"/apis/finetune.dev/v1alpha1/namespaces/{namespace}/finetunejobs"
    return cluster.client.request("POST", f"{path}?dryRun=All&fieldValidation=Strict", manifest)


@pytest.fixture(scope="module")
def refusals(control_plane: Cluster) -> dict[str, str]:
    """What the API server says to each entry, all asked at once; empty where it accepts."""

    def ask(bad: BadManifest) -> str:
        try:
            create_dry(control_plane, "default", bad.manifest)
        except DevClusterError as error:
            return str(error).replace('\\"', '"').replace("\\u003e", ">").replace("\\u003c", "<")
        return ""

    with ThreadPoolExecutor(8) as pool:
        return dict(zip([bad.name for bad in TABLE], pool.map(ask, TABLE), strict=True))


def test_the_table_is_long_enough_and_its_names_are_unique() -> None:
    assert len({bad.name for bad in TABLE}) == len(TABLE) >= 45


@pytest.mark.parametrize("bad", TABLE, ids=lambda bad: bad.name)
def test_a_wrong_manifest_is_refused_by_name(refusals: dict[str, str], bad: BadManifest) -> None:
    refusal = refusals[bad.name]
    assert refusal, "was accepted"
    assert refusal.startswith(("HTTP 422", "HTTP 400")), refusal
    assert bad.field in refusal
    assert bad.phrases["server"] in refusal


@pytest.mark.parametrize("name", ["misspelt field", "text for a number", "two sources of evaluation", "variable twice"])
def test_kubectl_says_the_same(control_plane: Cluster, namespace: str, name: str) -> None:
    (bad,) = (bad for bad in TABLE if bad.name == name)
    with pytest.raises(DevClusterError) as refusal:
        control_plane.kubectl("apply", "--dry-run=server", "-n", namespace, "-f", "-", stdin=json.dumps(bad.manifest))
    assert bad.field in str(refusal.value)
    assert bad.phrases["server"] in str(refusal.value)


def test_a_kind_or_version_that_is_not_served_is_refused(control_plane: Cluster, namespace: str) -> None:
    for change in ({"kind": "FinetuneJob"}, {"apiVersion": "finetune.dev/v1"}):
        with pytest.raises(DevClusterError, match="no matches for kind"):
            control_plane.kubectl(
                "apply", "--dry-run=server", "-n", namespace, "-f", "-", stdin=json.dumps(build_minimal_manifest() | change)
            )


def test_the_three_uris_are_a_complete_manifest(control_plane: Cluster, namespace: str) -> None:
    created = create_dry(control_plane, namespace, build_minimal_manifest())
    spec = parse_spec(created["spec"])
    assert spec == parse_spec(build_minimal_manifest()["spec"]), "the server's defaults are the models' defaults"
    assert created["spec"]["ttlSecondsAfterFinished"] == 604800
    assert created["status"] == {"observedGeneration": -1}, "seen by no operator, and nothing more"


def test_a_section_that_is_left_out_is_not_stored_but_where_fields_of_it_may_change(control_plane: Cluster, namespace: str) -> None:
    created = create_dry(control_plane, namespace, build_minimal_manifest())
    sections = {name for name, value in created["spec"].items() if isinstance(value, dict)}
    assert sections == {"model", "dataset", "output", "scheduling"}


def test_defaults_fill_a_section_given_in_part(control_plane: Cluster, namespace: str) -> None:
    manifest = build_minimal_manifest()
    manifest["spec"] |= {"method": {"adapter": {"r": 8}}, "training": {"checkpoint": {"keep": 3}}, "pod": {"env": [{"name": "A"}]}}
    created = create_dry(control_plane, namespace, manifest)
    assert created["spec"]["method"]["adapter"]["alpha"] == 32
    assert set(created["spec"]["method"]) == {"objective", "adapter"}
    assert created["spec"]["training"]["checkpoint"] == {"everySteps": 100, "keep": 3, "publishBest": False}
    assert created["spec"]["pod"]["env"] == [{"name": "A", "value": ""}]
    assert parse_spec(created["spec"]) == parse_spec(manifest["spec"])


def test_a_null_time_to_live_keeps_the_children(control_plane: Cluster, namespace: str) -> None:
    manifest = build_minimal_manifest()
    manifest["spec"]["ttlSecondsAfterFinished"] = None
    created = create_dry(control_plane, namespace, manifest)
    assert created["spec"]["ttlSecondsAfterFinished"] is None


def test_kubectl_drops_a_null_unless_it_applies_server_side(control_plane: Cluster, namespace: str) -> None:
    """What the reference says of `ttlSecondsAfterFinished: null`."""
    manifest = build_minimal_manifest("run", namespace)
    manifest["spec"]["ttlSecondsAfterFinished"] = None
    apply, get = ["apply", "-f", "-"], ["get", "ftj", "run", "-n", namespace, "-o", "json"]
    control_plane.kubectl(*apply, stdin=json.dumps(manifest))
    assert json.loads(control_plane.kubectl(*get))["spec"]["ttlSecondsAfterFinished"] == 604800
    control_plane.kubectl(*apply, "--server-side", "--force-conflicts", stdin=json.dumps(manifest))
    assert json.loads(control_plane.kubectl(*get))["spec"]["ttlSecondsAfterFinished"] is None
    manifest["spec"]["ttlSecondsAfterFinished"] = 2147483647
    control_plane.kubectl(*apply, stdin=json.dumps(manifest))
    assert json.loads(control_plane.kubectl(*get))["spec"]["ttlSecondsAfterFinished"] == 2147483647


def test_a_whole_number_may_be_written_with_a_point(control_plane: Cluster, namespace: str) -> None:
    """Stored as a whole number, so that what the operator reads is one."""
    manifest = build_minimal_manifest()
    manifest["spec"]["training"] = {"seed": 7.0}
    assert parse_spec(create_dry(control_plane, namespace, manifest)["spec"]).training.seed == 7
