"""All pods of a run or none, by a scheduler of its own: what is made for it on a real API server, with the chart's rights."""

import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from finetune_api.names import ANNOTATION_MIN_MEMBER, LABEL_POD_GROUP
from finetune_api.reasons import Reason
from finetune_devcluster import Cluster
from tests.support.crds import install_crds
from tests.support.fake_node import FakeNode
from tests.support.live_run import LiveRun, wait_until
from tests.support.operator_process import OperatorProcess, install_rights, write_kubeconfig

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(240, func_only=True)]

SECONDS = 60.0
POD_GROUPS = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {
        "name": "podgroups.scheduling.x-k8s.io",
        "annotations": {"api-approved.kubernetes.io": "unapproved, a part of the definition for tests"},
    },
    "spec": {
        "group": "scheduling.x-k8s.io",
        "scope": "Namespaced",
        "names": {"kind": "PodGroup", "listKind": "PodGroupList", "plural": "podgroups", "singular": "podgroup"},
        "versions": [
            {
                "name": "v1alpha1",
                "served": True,
                "storage": True,
                "subresources": {"status": {}},
                "schema": {
                    "openAPIV3Schema": {
                        "type": "object",
                        "properties": {
                            "spec": {"type": "object", "properties": {"minMember": {"type": "integer", "format": "int32", "minimum": 1}}},
                            "status": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
                        },
                    }
                },
            }
        ],
    },
}
"""Coscheduling's PodGroup, as far as a run sets it, under the names and the version that scheduler-plugins publishes."""


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A control plane without any scheduler but its own: pods for another stay as they were made."""
    with Cluster.up(f"gangs-{uuid.uuid4().hex[:6]}", state_root=tmp_path_factory.mktemp("gangs"), ephemeral=True) as cluster:
        install_crds(cluster)
        yield cluster


@pytest.fixture(scope="module")
def operator(plane: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OperatorProcess]:
    """The operator as the chart sets it up for coscheduling, and not for Volcano."""
    folder = tmp_path_factory.mktemp("operator")
    install_rights(plane, more="gangScheduling.coscheduling.schedulerName=gangs")
    environment = {"FINETUNE_GANG_SCHEDULERS": '{"volcano": "", "coscheduling": "gangs"}'}
    with OperatorProcess(write_kubeconfig(plane, folder / "kubeconfig"), folder, environment) as process:
        yield process


@pytest.fixture
def run(plane: Cluster, operator: OperatorProcess) -> LiveRun:
    """A run in a namespace of its own."""
    del operator
    namespace = f"test-{uuid.uuid4().hex[:10]}"
    plane.kubectl("create", "namespace", namespace)
    accounts = f"/api/v1/namespaces/{namespace}/serviceaccounts"
    wait_until(lambda: plane.client.request("GET", accounts)["items"], "the namespace has a ServiceAccount")
    return LiveRun(plane, FakeNode(plane), namespace, "run")


def _spec(gang: str) -> dict[str, Any]:
    return {"resources": {"gpus": 1, "nodes": 2}, "scheduling": {"gang": gang}}


def test_a_group_for_coscheduling_waits_for_the_crd_then_has_a_pod_group_and_goes_with_its_run(plane: Cluster, run: LiveRun) -> None:
    run.apply(_spec("coscheduling"))
    assert "scheduler-plugins" in run.wait_reason(Reason.POLICY_REFUSED, seconds=SECONDS)["message"]
    assert run.jobs() == []
    plane.client.request("POST", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", POD_GROUPS)
    again = LiveRun(plane, run.node, run.namespace, "again")

    def served() -> bool:
        return "podgroups" in str(plane.client.request("GET", "/apis/scheduling.x-k8s.io/v1alpha1"))

    plane.kubectl("wait", "--for=jsonpath={.status.acceptedNames.plural}=podgroups", "crd/podgroups.scheduling.x-k8s.io", "--timeout=60s")
    wait_until(served, "the definition is served", SECONDS)
    again.apply(_spec("coscheduling"))
    pods = wait_until(lambda: found if len(found := again.pods()) == 2 else None, "it has two pods", SECONDS, again.explain)
    groups = plane.client.request("GET", f"/apis/scheduling.x-k8s.io/v1alpha1/namespaces/{again.namespace}/podgroups")["items"]
    (group,) = [each for each in groups if each["metadata"]["ownerReferences"][0]["name"] == "again"]
    assert group["spec"] == {"minMember": 2}
    assert {pod["metadata"]["labels"][LABEL_POD_GROUP] for pod in pods} == {group["metadata"]["name"]}
    assert {(pod["spec"]["schedulerName"], pod["spec"].get("nodeName")) for pod in pods} == {("gangs", None)}, "nobody else places them"
    again.delete()
    path = f"/apis/scheduling.x-k8s.io/v1alpha1/namespaces/{again.namespace}/podgroups"
    names = lambda: [each["metadata"]["ownerReferences"][0]["name"] for each in plane.client.request("GET", path)["items"]]  # noqa: E731
    wait_until(lambda: "again" not in names(), "the group has gone with its run", SECONDS)


def test_a_gang_that_the_platform_has_not_named_is_refused_with_what_to_do(run: LiveRun) -> None:
    run.apply(_spec("volcano"))
    message = run.wait_reason(Reason.POLICY_REFUSED, seconds=SECONDS)["message"]
    assert "gangScheduling.volcano.schedulerName" in message
    assert ANNOTATION_MIN_MEMBER not in str(run.jobs())
    assert run.condition("Stalled")["status"] == "True"
