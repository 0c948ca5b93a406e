"""Parts of GPUs, claims, and what no node could take: by the real scheduler, on a node that says what GPU feature discovery would."""

import re
from collections.abc import Iterator

import pytest

from finetune_api.reasons import Reason
from finetune_devcluster import Cluster
from tests.support.fake_node import FakeNode
from tests.support.live_run import LiveRun, NewRun, wait_until
from tests.support.manifests import Manifest
from tests.support.world import build_summary

pytestmark = pytest.mark.cluster

DRIVER = "gpu.example.com"
LABELS = {
    "nvidia.com/gpu.product": "NVIDIA-L4",
    "nvidia.com/gpu.memory": "23034",
    "nvidia.com/mig-3g.40gb.product": "NVIDIA-H100-80GB-HBM3-MIG-3g.40gb",
    "nvidia.com/mig-3g.40gb.memory": "40320",
}
CAPACITY = {"nvidia.com/gpu": "4", "nvidia.com/mig-3g.40gb": "2", "nvidia.com/gpu.shared": "8"}


@pytest.fixture(scope="module")
def gpu_node(control_plane: Cluster) -> Iterator[FakeNode]:
    """A node with labelled GPUs, beside the one without labels."""
    with FakeNode(control_plane, "gpu-node", LABELS, CAPACITY) as node:
        yield node
    assert node.faults == []
    control_plane.client.request("DELETE", "/api/v1/nodes/gpu-node")


@pytest.mark.parametrize(
    "resources",
    [
        {"minGpuMemory": "20Gi"},
        {"gpuProducts": ["NVIDIA-A100", "NVIDIA-L4"]},
        {"gpuResource": "nvidia.com/mig-3g.40gb", "minGpuMemory": "39Gi"},
        {"gpuResource": "nvidia.com/mig-3g.40gb", "gpuProducts": ["NVIDIA-H100-80GB-HBM3-MIG-3g.40gb"]},
        {"gpuResource": "nvidia.com/gpu.shared", "gpuProducts": ["NVIDIA-L4"]},
    ],
    ids=["memory", "product", "profile's memory", "profile's product", "share"],
)
def test_a_run_goes_where_its_gpu_is(new_run: NewRun, gpu_node: FakeNode, resources: Manifest) -> None:
    run = new_run()
    run.apply({"resources": resources})
    assert run.wait_pod()["spec"]["nodeName"] == gpu_node.name


@pytest.mark.usefixtures("gpu_node")
def test_what_no_gpu_can_hold_is_said_until_a_node_comes_that_can(new_run: NewRun, control_plane: Cluster) -> None:
    run = new_run()
    run.apply({"resources": {"minGpuMemory": "31Gi"}})
    message = run.wait_reason(Reason.NO_FITTING_NODE)["message"]
    assert "the largest nvidia.com/gpu of the cluster (NVIDIA-L4) has 22.5 GiB of memory, the run needs 31 GiB" in message
    assert run.condition("Admitted")["status"] == "False"
    assert run.condition("Stalled")["status"] == "False"
    labels = {"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3", "nvidia.com/gpu.memory": "81559"}
    try:
        with FakeNode(control_plane, "larger-node", labels) as larger:
            assert run.wait_pod()["spec"]["nodeName"] == larger.name
            run.wait_phase("Running")
            assert run.condition("Admitted")["status"] == "True"
            run.end_pod(0, build_summary())
            run.wait_phase("Succeeded")
    finally:
        control_plane.client.request("DELETE", "/api/v1/nodes/larger-node")


@pytest.mark.usefixtures("gpu_node")
def test_what_a_well_known_model_needs_is_said_when_it_is_accepted(new_run: NewRun) -> None:
    """The estimate places no pod: it runs all the same, and may get over it by itself."""
    run = new_run()
    run.apply({"model": {"uri": "hf://meta-llama/Llama-3.1-70B"}, "resources": {"gpuProducts": ["NVIDIA-L4"]}})
    wait_until(
        lambda: "The largest" in run.condition("Accepted").get("message", ""), "the estimate is held against the nodes", 40, run.explain
    )
    message = run.condition("Accepted")["message"]
    assert re.match(r"Needs about \d\d(\.\d)? GiB of a GPU's memory, by estimate \(base in 4 bits 31\.", message)
    assert "The largest nvidia.com/gpu of the cluster (NVIDIA-L4) has 22.5 GiB: the run will probably run out of memory." in message
    run.wait_phase("Running")
    assert run.condition("Accepted")["message"] == message
    run.end_pod(0, build_summary())
    run.wait_phase("Succeeded")
    assert run.condition("Accepted")["message"] == message


@pytest.fixture
def claimable(control_plane: Cluster, gpu_node: FakeNode) -> Iterator[None]:
    """Two devices of a driver, as it publishes them for its node."""
    api = "/apis/resource.k8s.io/v1"
    cel = {"cel": {"expression": f"device.driver == '{DRIVER}'"}}
    device_class = {"metadata": {"name": DRIVER}, "spec": {"selectors": [cel]}}
    pool = {"name": gpu_node.name, "generation": 1, "resourceSliceCount": 1}
    devices = [{"name": f"gpu-{index}", "capacity": {"memory": {"value": "80Gi"}}} for index in range(2)]
    resource_slice = {
        "metadata": {"name": "gpu-node-slice"},
        "spec": {"driver": DRIVER, "nodeName": gpu_node.name, "pool": pool, "devices": devices},
    }
    version = {"apiVersion": "resource.k8s.io/v1"}
    control_plane.client.request("POST", f"{api}/deviceclasses", {**version, "kind": "DeviceClass", **device_class})
    control_plane.client.request("POST", f"{api}/resourceslices", {**version, "kind": "ResourceSlice", **resource_slice})
    yield
    control_plane.client.request("DELETE", f"{api}/resourceslices/gpu-node-slice")
    control_plane.client.request("DELETE", f"{api}/deviceclasses/{DRIVER}")


def _make_template(run: LiveRun, gibibytes: int) -> None:
    selector = {"cel": {"expression": f"device.capacity['{DRIVER}'].memory.compareTo(quantity('{gibibytes}Gi')) >= 0"}}
    request = {"name": "gpu", "exactly": {"deviceClassName": DRIVER, "count": 1, "selectors": [selector]}}
    template = {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceClaimTemplate",
        "metadata": {"name": "one-gpu"},
        "spec": {"spec": {"devices": {"requests": [request]}}},
    }
    run.client.request("POST", f"/apis/resource.k8s.io/v1/namespaces/{run.namespace}/resourceclaimtemplates", template)


@pytest.mark.usefixtures("claimable")
def test_a_gpu_is_claimed_by_template_and_given_back_at_the_end(new_run: NewRun, gpu_node: FakeNode) -> None:
    run = new_run()
    _make_template(run, 40)
    run.apply({"resources": {"gpuClaimTemplate": "one-gpu"}})
    pod = run.wait_pod()
    assert pod["spec"]["nodeName"] == gpu_node.name
    claims = f"/apis/resource.k8s.io/v1/namespaces/{run.namespace}/resourceclaims"
    (claim,) = run.client.request("GET", claims)["items"]
    (result,) = claim["status"]["allocation"]["devices"]["results"]
    assert (result["driver"], result["pool"]) == (DRIVER, gpu_node.name)
    assert [each["name"] for each in claim["status"]["reservedFor"]] == [pod["metadata"]["name"]]
    assert run.wait_phase("Running")["gpus"] == 1
    run.delete()
    # Kubernetes' controller of claims looks again only after half a minute where it has found the pod still there.
    wait_until(lambda: not run.client.request("GET", claims)["items"], "the claim goes with its pod", 90)


@pytest.mark.usefixtures("claimable")
def test_a_claim_that_nothing_meets_is_said(new_run: NewRun) -> None:
    run = new_run()
    _make_template(run, 141)
    run.apply({"resources": {"gpuClaimTemplate": "one-gpu"}})
    message = run.wait_reason(Reason.UNSCHEDULABLE)["message"]
    assert "cannot allocate all claims" in message
    assert "ResourceClaimTemplate one-gpu" in message


def test_a_template_that_is_missing_is_named(new_run: NewRun) -> None:
    run = new_run()
    run.apply({"resources": {"gpuClaimTemplate": "none"}})
    assert "ResourceClaimTemplate none, which must exist in this namespace" in run.wait_reason(Reason.WAITING_FOR_POD)["message"]
