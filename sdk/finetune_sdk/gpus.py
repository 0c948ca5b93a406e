"""Which GPUs the cluster has, who holds them, and who waits: a pure function of nodes, pods and FineTuneJobs."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from finetune_api.gpus import memory_label, product_label
from finetune_api.names import LABEL_JOB_NAME
from finetune_api.status import Phase
from finetune_sdk.run import Run

Object = Mapping[str, Any]
_VENDORS: Final = ("nvidia.com/", "amd.com/", "gpu.intel.com/")
"""Domains whose extended resources are GPUs or parts of them."""
_NO_DEVICES: Final = ("memory", "millicores")


@dataclass(frozen=True, slots=True)
class Holder:
    """A pod that holds GPUs."""

    namespace: str
    pod: str
    """Name of the pod."""
    job: str | None
    """FineTuneJob that it belongs to; None of a pod of someone else."""
    gpus: int


@dataclass(frozen=True, slots=True)
class NodeGpus:
    """The GPUs of one resource on one node."""

    node: str
    resource: str
    """`nvidia.com/gpu`, or a MIG profile."""
    product: str
    """By the label of GPU feature discovery; empty where nothing labels the node."""
    memory_bytes: int | None
    """Memory of one GPU; None where nothing says it."""
    total: int
    """GPUs that the node's kubelet hands out."""
    used: int
    schedulable: bool
    """False of a node that is cordoned or not ready."""
    holders: list[Holder] = field(default_factory=list)

    @property
    def free(self) -> int:
        """GPUs that a new pod could have."""
        return max(0, self.total - self.used) if self.schedulable else 0


@dataclass(frozen=True, slots=True)
class Waiting:
    """A FineTuneJob that waits for GPUs."""

    namespace: str
    name: str
    queue: str
    """LocalQueue; empty of a run without one."""
    gpus: int
    resource: str
    phase: str
    message: str


@dataclass(frozen=True, slots=True)
class GpuReport:
    """GPUs by node, and who waits."""

    nodes: list[NodeGpus]
    waiting: list[Waiting]
    unseen: list[str] = field(default_factory=list)
    """What could not be read, and why; the report is then the less."""


def compute_gpu_report(nodes: Iterable[Object], pods: Iterable[Object], runs: Iterable[Run], unseen: Iterable[str] = ()) -> GpuReport:
    """Return the report over these objects."""
    holders = _find_holders(pods)
    found: list[NodeGpus] = []
    for node in nodes:
        name = str(node["metadata"]["name"])
        labels = node["metadata"].get("labels") or {}
        allocatable = (node.get("status") or {}).get("allocatable") or {}
        for resource in sorted(filter(is_gpu, allocatable)):
            total = int(allocatable[resource])
            held = sorted(holders[name, resource], key=lambda each: (each.namespace, each.job or each.pod))
            if total or held:
                used = sum(each.gpus for each in held)
                product, memory = str(labels.get(product_label(resource), "")), _memory(labels, resource)
                found.append(NodeGpus(name, resource, product, memory, total, used, _is_schedulable(node), held))
    waiting = [waiter for run in runs if (waiter := _waiter(run)) is not None]
    return GpuReport(
        sorted(found, key=lambda each: (each.product, each.node, each.resource)),
        sorted(waiting, key=lambda each: (each.queue, each.namespace, each.name)),
        list(unseen),
    )


def is_gpu(resource: str) -> bool:
    """Tell whether an extended resource counts GPUs, or parts of them."""
    return resource.startswith(_VENDORS) and not resource.endswith(_NO_DEVICES)


def _find_holders(pods: Iterable[Object]) -> defaultdict[tuple[str, str], list[Holder]]:
    holders: defaultdict[tuple[str, str], list[Holder]] = defaultdict(list)
    for pod in pods:
        node = pod["spec"].get("nodeName")
        if not node or (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed"):
            continue
        asked: dict[str, int] = defaultdict(int)
        for container in pod["spec"]["containers"]:
            limits = (container.get("resources") or {}).get("limits") or {}
            for resource in filter(is_gpu, limits):
                asked[resource] += int(limits[resource])
        for resource, gpus in asked.items():
            job = (pod["metadata"].get("labels") or {}).get(LABEL_JOB_NAME)
            holders[node, resource].append(Holder(str(pod["metadata"]["namespace"]), str(pod["metadata"]["name"]), job, gpus))
    return holders


def _waiter(run: Run) -> Waiting | None:
    resources = run.get("spec.resources") or {}
    gpus = int(resources.get("gpus", 0)) * int(resources.get("nodes", 1))
    if gpus == 0 or run.phase not in (None, Phase.QUEUED, Phase.PENDING):
        return None
    queue = str(run.get("spec.scheduling.queueName") or "")
    phase = str(run.phase or "")
    return Waiting(run.namespace, run.name, queue, gpus, str(resources.get("gpuResource", "")), phase, run.message)


def _memory(labels: Mapping[str, str], resource: str) -> int | None:
    text = str(labels.get(memory_label(resource), ""))  # in MiB
    return int(text) * 2**20 if text.isdigit() else None


def _is_schedulable(node: Object) -> bool:
    conditions = (node.get("status") or {}).get("conditions") or []
    ready = next((each["status"] for each in conditions if each["type"] == "Ready"), "Unknown")
    return ready == "True" and not (node.get("spec") or {}).get("unschedulable", False)
