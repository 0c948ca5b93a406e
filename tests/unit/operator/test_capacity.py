"""What no node could ever take, and how it is said."""

from dataclasses import dataclass, field

import pytest

from finetune_operator.capacity import NodeCapacity, Request, compute_misfit, compute_verdict
from tests.support.manifests import Manifest
from tests.support.world import build_spec

HOST = {"cpu": "64", "memory": "512Gi", "ephemeral-storage": "1Ti"}
L4 = NodeCapacity(
    {"nvidia.com/gpu.product": "NVIDIA-L4", "nvidia.com/gpu.memory": "23034", "pool": "small"}, {**HOST, "nvidia.com/gpu": "4"}
)
H100 = NodeCapacity(
    {
        "nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3",
        "nvidia.com/gpu.memory": "81559",
        "nvidia.com/mig-3g.40gb.product": "NVIDIA-H100-80GB-HBM3-MIG-3g.40gb",
        "nvidia.com/mig-3g.40gb.memory": "40320",
    },
    {**HOST, "nvidia.com/gpu": "1", "nvidia.com/mig-3g.40gb": "2", "nvidia.com/mig-1g.10gb": "0"},
)
SHARED = NodeCapacity({"nvidia.com/gpu.memory": "23034", "nvidia.com/gpu.product": "NVIDIA-L4"}, {**HOST, "nvidia.com/gpu.shared": "8"})
UNLABELLED = NodeCapacity({}, {**HOST, "nvidia.com/gpu": "8"})
CPU = NodeCapacity({}, HOST)


@dataclass(frozen=True)
class Case:
    """A run that no node could take."""

    name: str
    words: str
    resources: Manifest = field(default_factory=dict)
    nodes: tuple[NodeCapacity, ...] = (L4, CPU)
    selector: Manifest = field(default_factory=dict)

    def __str__(self) -> str:
        """Return the name, for pytest."""
        return self.name


MISFITS = [
    Case(
        "memory",
        "the largest nvidia.com/gpu of the cluster (NVIDIA-L4) has 22.5 GiB of memory, the run needs 31 GiB (resources.minGpuMemory)",
        {"minGpuMemory": "31Gi"},
    ),
    Case("24 GB are no 24 GiB", "has 22.5 GiB of memory, the run needs 24 GiB", {"minGpuMemory": "24Gi"}),
    Case(
        "memory of a profile, not of the whole GPU",
        "(NVIDIA-H100-80GB-HBM3-MIG-3g.40gb) has 39.4 GiB of memory, the run needs 48 GiB",
        {"gpuResource": "nvidia.com/mig-3g.40gb", "minGpuMemory": "48Gi"},
        (H100,),
    ),
    Case("nothing says the memory", "no node has the label nvidia.com/gpu.memory for", {"minGpuMemory": "1Gi"}, (UNLABELLED,)),
    Case(
        "no such resource",
        "none has nvidia.com/mig-1g.10gb (resources.gpuResource); there is nvidia.com/gpu, nvidia.com/mig-3g.40gb",
        {"gpuResource": "nvidia.com/mig-1g.10gb"},
        (L4, H100, CPU),
    ),
    Case("no GPU at all", "none has nvidia.com/gpu (resources.gpuResource).", nodes=(CPU,)),
    Case(
        "no such product",
        "none has a GPU that is NVIDIA-A100 or NVIDIA-H200 (resources.gpuProducts); there is NVIDIA-H100-80GB-HBM3, NVIDIA-L4",
        {"gpuProducts": ["NVIDIA-A100", "NVIDIA-H200"]},
        (L4, H100),
    ),
    Case("product and memory together", "(NVIDIA-L4) has 22.5 GiB", {"gpuProducts": ["NVIDIA-L4"], "minGpuMemory": "40Gi"}, (L4, H100)),
    Case("selector", "none has the labels of the node selector (pool=big)", selector={"pool": "big"}),
    Case("selector and memory together", "(NVIDIA-L4) has 22.5 GiB", {"minGpuMemory": "40Gi"}, (L4, H100), {"pool": "small"}),
    Case(
        "host memory", "the most memory on one that fits otherwise is 512 GiB, the run asks for 1Ti (resources.memory)", {"memory": "1Ti"}
    ),
    Case("processors", "the most cpu on one that fits otherwise is 64, the run asks for 100 (resources.cpu)", {"cpu": "100"}),
    Case("disk", "is 1024 GiB, the run asks for 2Ti (resources.ephemeralStorage)", {"ephemeralStorage": "2Ti"}),
    Case("a run on the CPU", "the most memory on one that fits otherwise is 512 GiB", {"gpus": 0, "memory": "1Ti"}, (CPU,)),
]


def _request(resources: Manifest, selector: Manifest | None = None) -> Request:
    return Request(build_spec({"resources": resources}).resources, selector or {})


@pytest.mark.parametrize("case", MISFITS, ids=str)
def test_what_is_missing_is_said_with_the_best_that_there_is(case: Case) -> None:
    said = compute_misfit(_request(case.resources, case.selector), case.nodes)
    assert said is not None
    assert said.startswith("No node of the cluster could take the run, even an empty one: ")
    assert case.words in said


@pytest.mark.parametrize(
    ("resources", "nodes"),
    [
        ({}, (CPU, L4)),
        ({"minGpuMemory": "22Gi"}, (CPU, L4)),
        ({"minGpuMemory": "22Gi"}, (UNLABELLED, L4)),
        ({"minGpuMemory": "31Gi", "gpuProducts": ["NVIDIA-L4", "NVIDIA-H100-80GB-HBM3"]}, (L4, H100)),
        ({"gpuResource": "nvidia.com/mig-3g.40gb", "minGpuMemory": "39Gi"}, (L4, H100)),
        ({"gpuResource": "nvidia.com/gpu.shared", "minGpuMemory": "20Gi"}, (SHARED,)),
        ({"gpuClaimTemplate": "one-gpu"}, (CPU,)),
        ({"gpus": 0}, (CPU,)),
        ({"minGpuMemory": "31Gi"}, ()),
    ],
)
def test_nothing_is_said_where_a_node_could_take_it(resources: Manifest, nodes: tuple[NodeCapacity, ...]) -> None:
    assert compute_misfit(_request(resources), nodes) is None


@pytest.mark.parametrize(("gpus", "most"), [(1, None), (4, None), (8, "the most nvidia.com/gpu on one is 4, the run needs 8")])
def test_the_gpus_of_a_pod_must_be_on_one_node(gpus: int, most: str | None) -> None:
    wanted = build_spec().resources.model_copy(update={"gpus": gpus})
    said = compute_misfit(Request(wanted, {}), (L4, L4, L4))
    assert (said is None) if most is None else (said is not None and most in said)


@pytest.mark.parametrize(("nodes", "fits"), [(2, True), (3, False)])
def test_all_pods_of_a_run_must_have_room(nodes: int, fits: bool) -> None:
    wanted = build_spec().resources.model_copy(update={"gpus": 3, "nodes": nodes})
    said = compute_misfit(Request(wanted, {}), (L4, L4, CPU))
    assert said == (
        None if fits else "The nodes of the cluster could hold 2 of the run's 3 pods of 3 nvidia.com/gpu each, even if they were empty."
    )


@pytest.mark.parametrize(
    ("gibibytes", "nodes", "resources", "largest"),
    [
        (31, (L4, CPU), {}, "NVIDIA-L4"),
        (31, (L4, H100), {}, None),
        (31, (L4, H100), {"gpuProducts": ["NVIDIA-L4"]}, "NVIDIA-L4"),
        (41, (L4, H100), {"gpuResource": "nvidia.com/mig-3g.40gb"}, "NVIDIA-H100-80GB-HBM3-MIG-3g.40gb"),
        (20, (L4, CPU), {}, None),
        (31, (L4, UNLABELLED), {}, None),
        (31, (CPU,), {}, None),
        (31, (L4,), {"gpus": 0}, None),
        (31, (L4,), {"gpuClaimTemplate": "one-gpu"}, None),
    ],
    ids=["too small", "one is larger", "by product", "by profile", "large enough", "one says nothing", "no GPU", "on the CPU", "claimed"],
)
def test_the_largest_gpu_is_named_where_the_run_needs_more(
    gibibytes: int, nodes: tuple[NodeCapacity, ...], resources: Manifest, largest: str | None
) -> None:
    request = Request(build_spec({"resources": resources}).resources, {}, gibibytes * 2**30)
    said = compute_verdict(request, nodes).too_small
    assert (said is None) if largest is None else (said is not None and f"({largest})" in said.words)
