"""What no node of the cluster could take, even if it were empty, in words that a person can act on: pure arithmetic over nodes."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from finetune_api.gpus import memory_label, product_label
from finetune_api.quantity import parse_quantity
from finetune_api.spec.placement import ResourcesSpec


@dataclass(frozen=True, slots=True)
class NodeCapacity:
    """What of a node decides whether a pod could ever be there. Whether it is ready or full now is left out on purpose."""

    labels: Mapping[str, str]
    allocatable: Mapping[str, str]
    """Quantities, by resource."""

    def count(self, resource: str) -> int:
        """Return how many of ``resource`` a pod could have; 0 of what is not there or can't be read."""
        return int(_amount(self.allocatable.get(resource)))

    def gpu_mebibytes(self, resource: str) -> int | None:
        """Return the memory of one GPU of ``resource``, in MiB; None where no label says it."""
        text = self.labels.get(memory_label(resource), "")
        return int(text) if text.isdecimal() else None


@dataclass(frozen=True, slots=True)
class Request:
    """What a pod of a run asks of its node."""

    resources: ResourcesSpec
    node_selector: Mapping[str, str]
    needed_bytes: int | None = None
    """Memory of one GPU that the run is estimated to need, where that is known. It places no pod: only `resources.minGpuMemory` does."""


@dataclass(frozen=True, slots=True)
class LargestGpu:
    """The GPU of the cluster with the most memory, of those that a run may have."""

    size_bytes: int
    words: str
    """`nvidia.com/gpu of the cluster (NVIDIA-L4)`."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the cluster's nodes, empty ones, mean for a run."""

    misfit: str | None = None
    """Why no node could take a pod of the run."""
    too_small: LargestGpu | None = None
    """The largest GPU, where it has less memory than the run is estimated to need."""


def project_node(node: Mapping[str, Any]) -> NodeCapacity:
    """Return what is kept of a Node."""
    return NodeCapacity(node["metadata"].get("labels") or {}, node.get("status", {}).get("allocatable") or {})


def compute_verdict(request: Request, nodes: Sequence[NodeCapacity]) -> Verdict:
    """Return what ``nodes`` mean for a run."""
    return Verdict(compute_misfit(request, nodes), _find_too_small(request, nodes))


def _find_too_small(request: Request, nodes: Sequence[NodeCapacity]) -> LargestGpu | None:
    resource, left = _device_of(request), list(nodes)
    if resource is None or request.needed_bytes is None:
        return None
    for narrow in (_by_selector, _by_gpu, _by_product):
        left, _ = narrow(request, left)
    known = [(memory, node) for node in left if (memory := node.gpu_mebibytes(resource)) is not None]
    if not known or len(known) < len(left):
        return None  # one without the label may be the largest of all
    memory, node = max(known, key=lambda pair: pair[0])
    if memory * 2**20 >= request.needed_bytes:
        return None
    return LargestGpu(memory * 2**20, _name_gpu(resource, node))


def _name_gpu(resource: str, node: NodeCapacity) -> str:
    product = node.labels.get(product_label(resource))
    return f"{resource} of the cluster" + (f" ({product})" if product else "")


def compute_misfit(request: Request, nodes: Sequence[NodeCapacity]) -> str | None:
    """Return why no node could take a pod of the run, or None where one could.

    The first demand that leaves no node over is named, with the best that there is. Taints, and what else runs on a node, are not
    looked at: the scheduler speaks of those.
    """
    if not nodes:
        return None  # a cluster without nodes waits for its first, and says nothing about the run
    left = list(nodes)
    for narrow in (_by_selector, _by_gpu, _by_product, _by_gpu_memory, _by_gpu_count, _by_host):
        kept, words = narrow(request, left)
        if not kept:
            return f"No node of the cluster could take the run, even an empty one: {words}."
        left = kept
    return _describe_too_few(request.resources, left)


Narrowed = tuple[list[NodeCapacity], str]
"""Nodes that are left over, and what to say where there are none."""


def _by_selector(request: Request, nodes: list[NodeCapacity]) -> Narrowed:
    wanted = request.node_selector
    kept = [node for node in nodes if all(node.labels.get(key) == value for key, value in wanted.items())]
    labels = ", ".join(f"{key}={value}" for key, value in sorted(wanted.items()))
    return kept, f"none has the labels of the node selector ({labels})"


def _by_gpu(request: Request, nodes: list[NodeCapacity]) -> Narrowed:
    resource = _device_of(request)
    if resource is None:
        return nodes, ""
    kept = [node for node in nodes if node.count(resource)]
    others = sorted({name for node in nodes for name in node.allocatable if _shares_domain(name, resource) and node.count(name)})
    return kept, f"none has {resource} (resources.gpuResource)" + (f"; there is {', '.join(others)}" if others else "")


def _by_product(request: Request, nodes: list[NodeCapacity]) -> Narrowed:
    resource, wanted = _device_of(request), request.resources.gpu_products
    if resource is None or not wanted:
        return nodes, ""
    label = product_label(resource)
    kept = [node for node in nodes if node.labels.get(label) in wanted]
    present = sorted({node.labels[label] for node in nodes if node.labels.get(label)})
    there = f"there is {', '.join(present)}" if present else f"no node has the label {label}, which GPU feature discovery sets"
    return kept, f"none has a GPU that is {' or '.join(wanted)} (resources.gpuProducts); {there}"


def _by_gpu_memory(request: Request, nodes: list[NodeCapacity]) -> Narrowed:
    resource, wanted = _device_of(request), request.resources.min_gpu_memory
    if resource is None or wanted is None:
        return nodes, ""
    known = [(memory, node) for node in nodes if (memory := node.gpu_mebibytes(resource)) is not None]
    kept = [node for memory, node in known if memory * 2**20 >= parse_quantity(wanted)]
    if not known:
        return kept, f"no node has the label {memory_label(resource)} for resources.minGpuMemory, which GPU feature discovery sets"
    memory, largest = max(known, key=lambda pair: pair[0])
    there = f"the largest {_name_gpu(resource, largest)} has {say_gibibytes(memory * 2**20)} of memory"
    return kept, f"{there}, the run needs {say_gibibytes(parse_quantity(wanted))} (resources.minGpuMemory)"


def _by_gpu_count(request: Request, nodes: list[NodeCapacity]) -> Narrowed:
    resource = _device_of(request)
    if resource is None:
        return nodes, ""
    wanted, most = request.resources.gpus, max(node.count(resource) for node in nodes)
    return [node for node in nodes if node.count(resource) >= wanted], f"the most {resource} on one is {most}, the run needs {wanted}"


def _by_host(request: Request, nodes: list[NodeCapacity]) -> Narrowed:
    resources = request.resources
    for name, field, wanted, say in (
        ("memory", "memory", resources.memory, say_gibibytes),
        ("cpu", "cpu", resources.cpu, _say_number),
        ("ephemeral-storage", "ephemeralStorage", resources.ephemeral_storage, say_gibibytes),
    ):
        if wanted is None:
            continue
        kept = [node for node in nodes if _amount(node.allocatable.get(name)) >= parse_quantity(wanted)]
        if not kept:
            most = max(_amount(node.allocatable.get(name)) for node in nodes)
            return [], f"the most {name} on one that fits otherwise is {say(most)}, the run asks for {wanted} (resources.{field})"
        nodes = kept
    return nodes, ""


def _describe_too_few(resources: ResourcesSpec, nodes: Iterable[NodeCapacity]) -> str | None:
    """Return that all nodes together could not hold all pods of a run of several, or None."""
    if resources.nodes == 1 or not resources.gpus or resources.gpu_claim_template is not None:
        return None
    room = sum(node.count(resources.gpu_resource) // resources.gpus for node in nodes)
    if room >= resources.nodes:
        return None
    pods = f"{resources.nodes} pods of {resources.gpus} {resources.gpu_resource} each"
    return f"The nodes of the cluster could hold {room} of the run's {pods}, even if they were empty."


def _device_of(request: Request) -> str | None:
    """Return the extended resource of the GPUs; None without GPUs, and of those that a claim finds."""
    resources = request.resources
    return resources.gpu_resource if resources.gpus and resources.gpu_claim_template is None else None


def _shares_domain(name: str, resource: str) -> bool:
    return name.partition("/")[0] == resource.partition("/")[0]


def _amount(quantity: str | None) -> Decimal:
    try:
        return parse_quantity(quantity) if quantity is not None else Decimal(0)
    except ValueError:
        return Decimal(0)


def say_gibibytes(amount: Decimal | int) -> str:
    """Return bytes as a person reads them: `22.5 GiB`."""
    return f"{float(amount) / 2**30:.1f}".removesuffix(".0") + " GiB"


_say_number: Callable[[Decimal], str] = "{:g}".format
