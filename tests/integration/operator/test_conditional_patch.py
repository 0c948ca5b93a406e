"""A status that is written only where it is what was seen: the API server must find its own spelling of numbers and texts in the test."""

import uuid
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from finetune_devcluster import Cluster
from finetune_operator.kube.client import ApiError, KubeClient, Resource
from finetune_operator.kube.conditional_patch import build_conditional_patch
from tests.support.live_run import wait_until

pytestmark = pytest.mark.cluster

GROUP: Final = f"{uuid.uuid4().hex[:8]}.example.com"
THINGS: Final = Resource(GROUP, "v1", "things")
ANYTHING: Final = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
CRD: Final = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": f"things.{GROUP}"},
    "spec": {
        "group": GROUP,
        "scope": "Namespaced",
        "names": {"plural": "things", "singular": "thing", "kind": "Thing", "listKind": "ThingList"},
        "versions": [
            {
                "name": "v1",
                "served": True,
                "storage": True,
                "subresources": {"status": {}},
                "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": ANYTHING, "status": ANYTHING}}},
            }
        ],
    },
}

TEXTS: Final = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
NUMBERS: Final = (
    st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | st.sampled_from([1e-6, 1e-7, 1e21, 0.1, -0.0])
)
VALUES: Final = st.recursive(
    st.booleans() | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=12,
)


@pytest.fixture(scope="module")
def things(control_plane: Cluster) -> Cluster:
    """A control plane that keeps whatever stands in the status of a Thing."""
    control_plane.client.request("POST", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", CRD)
    wait_until(lambda: _is_served(control_plane), "Things are served")
    return control_plane


def _is_served(cluster: Cluster) -> bool:
    crd = cluster.client.request("GET", f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/things.{GROUP}")
    return any(each["type"] == "Established" and each["status"] == "True" for each in crd.get("status", {}).get("conditions") or ())


@pytest.fixture
def client(things: Cluster, kube_client: KubeClient) -> KubeClient:  # noqa: ARG001  # Things are to be there
    return kube_client


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(TEXTS, VALUES, min_size=1, max_size=4))
async def test_any_status_is_found_as_it_was_read(client: KubeClient, namespace: str, status: dict[str, Any]) -> None:
    name = f"thing-{uuid.uuid4().hex[:8]}"
    manifest = {"apiVersion": f"{GROUP}/v1", "kind": "Thing", "metadata": {"name": name, "labels": {"a": "b"}}, "spec": {}}
    await client.create(THINGS, namespace, manifest)
    seen = await client.merge_patch(THINGS, namespace, name, {"status": status}, subresource="status")
    await client.merge_patch(THINGS, namespace, name, {"metadata": {"annotations": {"others": "write"}}})

    written = await client.json_patch(THINGS, namespace, name, build_conditional_patch(seen, {"mine": 1}), subresource="status")
    assert written["status"] == {**seen["status"], "mine": 1}
    assert written["metadata"]["annotations"] == {"others": "write"}

    with pytest.raises(ApiError) as refusal:
        await client.json_patch(THINGS, namespace, name, build_conditional_patch(seen, {"mine": 2}), subresource="status")
    assert refusal.value.status == 422


@pytest.mark.parametrize(
    "change", [{"spec": {"suspend": True}}, {"metadata": {"labels": {"team": "b"}}}, {"status": {"phase": "Failed"}}, None]
)
async def test_whatever_a_decision_reads_must_be_as_it_was(client: KubeClient, namespace: str, change: dict[str, Any] | None) -> None:
    manifest = {"apiVersion": f"{GROUP}/v1", "kind": "Thing", "metadata": {"name": "thing", "finalizers": ["example.com/stay"]}, "spec": {}}
    seen = await client.create(THINGS, namespace, manifest)
    if change is None:
        await client.delete(THINGS, namespace, "thing", uid=seen["metadata"]["uid"])
    else:
        await client.merge_patch(THINGS, namespace, "thing", change, subresource="status" if "status" in change else None)
    try:
        with pytest.raises(ApiError) as refusal:
            await client.json_patch(THINGS, namespace, "thing", build_conditional_patch(seen, {"mine": 1}), subresource="status")
        assert refusal.value.status == 422
    finally:
        await client.merge_patch(THINGS, namespace, "thing", {"metadata": {"finalizers": None}})
