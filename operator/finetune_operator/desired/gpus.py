"""GPUs in a pod: as an extended resource of a device plugin, or as a claim made from a template."""

import math
from typing import Any, Final

from finetune_api.gpus import GPU_RESOURCE, memory_label, product_label
from finetune_api.quantity import parse_quantity
from finetune_api.spec.placement import ResourcesSpec

CLAIM_NAME: Final = "gpus"
"""Name of the claim within the pod."""

Manifest = dict[str, Any]


def build_gpu_resources(resources: ResourcesSpec) -> Manifest:
    """Return the extended resources that the container requests and is limited to."""
    if not resources.gpus or resources.gpu_claim_template is not None:
        return {}
    return {resources.gpu_resource: str(resources.gpus)}


def build_container_claims(resources: ResourcesSpec) -> list[Manifest]:
    """Return the container's part of `resources.claims`."""
    return [{"name": CLAIM_NAME}] if resources.gpu_claim_template is not None else []


def build_pod_claims(resources: ResourcesSpec) -> list[Manifest]:
    """Return the pod's `resourceClaims`; the claim itself is made by Kubernetes for each pod, and goes with it."""
    template = resources.gpu_claim_template
    return [{"name": CLAIM_NAME, "resourceClaimTemplateName": template}] if template is not None else []


def build_gpu_tolerations(resources: ResourcesSpec) -> list[Manifest]:
    """Return tolerations for the taints of GPU nodes: a node with MIG profiles is tainted as one with GPUs."""
    if not resources.gpus:
        return []
    keys = dict.fromkeys((resources.gpu_resource, GPU_RESOURCE))
    return [{"key": key, "operator": "Exists", "effect": "NoSchedule"} for key in keys]


def build_gpu_affinity(resources: ResourcesSpec) -> Manifest | None:
    """Return the affinity for nodes whose GPUs are of the product and the memory that is asked for; None where nothing is."""
    expressions: list[Manifest] = []
    if resources.gpus and resources.min_gpu_memory is not None:
        least = compute_least_mebibytes(resources.min_gpu_memory)
        expressions.append({"key": memory_label(resources.gpu_resource), "operator": "Gt", "values": [str(least - 1)]})
    if resources.gpus and resources.gpu_products:
        expressions.append({"key": product_label(resources.gpu_resource), "operator": "In", "values": list(resources.gpu_products)})
    if not expressions:
        return None
    return {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [{"matchExpressions": expressions}]}}}


def compute_least_mebibytes(quantity: str) -> int:
    """Return the least whole number of MiB that holds ``quantity`` bytes."""
    return math.ceil(parse_quantity(quantity) / 2**20)
