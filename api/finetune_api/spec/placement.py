"""What the trainer's pod asks of the cluster."""

from typing import Annotated, Final, Literal

from pydantic import Field

from finetune_api.base import ApiModel
from finetune_api.gpus import GPU_RESOURCE
from finetune_api.quantity import CpuQuantity, MemoryQuantity
from finetune_api.rules import Obeys, Rule, UniqueBy
from finetune_api.spec.group import MAX_GPUS, MAX_NODES
from finetune_api.spec.source import DnsName, SecretReference

_DOMAIN = "[a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)*"
_NAME = "[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"
LabelKey = Annotated[str, Field(min_length=1, max_length=317, pattern=f"^({_DOMAIN}/)?{_NAME}$")]
LabelValue = Annotated[str, Field(max_length=63, pattern=f"^({_NAME})?$")]
QueueName = Annotated[str, Field(min_length=1, max_length=63, pattern=f"^{_DOMAIN}$")]
"""Name of a LocalQueue, which must also fit in a label."""
ResourceName = Annotated[str, Field(min_length=3, max_length=253, pattern=f"^{_DOMAIN}/{_NAME}$")]

RESERVED_LABEL_DOMAINS: Final = ("finetune.dev", "kubernetes.io", "k8s.io", "x-k8s.io")
"""Labels of these domains and of those below them belong to the operator, to Kubernetes and to Kueue."""
RESERVED_ENV_PREFIXES: Final = ("FINETUNE_", "KUBERNETES_", "LD_", "NVIDIA_", "PYTHON")
"""Variables that the trainer's configuration, its interpreter and the device plugin (`NVIDIA_VISIBLE_DEVICES`) go by."""


def _is_reserved(key: str) -> bool:
    domain, slash, _ = key.partition("/")
    return bool(slash) and any(f".{domain}".endswith(f".{reserved}") for reserved in RESERVED_LABEL_DOMAINS)


_ENV_NAME_RULE: Final = Rule(
    cel=f"!{list(RESERVED_ENV_PREFIXES)}.exists(prefix, self.startsWith(prefix))",
    holds=lambda name: not name.startswith(RESERVED_ENV_PREFIXES),
    message=f"must not begin with a reserved prefix ({', '.join(RESERVED_ENV_PREFIXES)})",
    json_schema={"not": {"pattern": f"^({'|'.join(RESERVED_ENV_PREFIXES)})"}},
)
LABEL_DOMAIN_RULE: Final = Rule(
    cel=f"self.all(key, !{list(RESERVED_LABEL_DOMAINS)}.exists(domain, ('.' + key).contains('.' + domain + '/')))",
    holds=lambda labels: not any(map(_is_reserved, labels)),
    message=f"must not have labels of a reserved domain ({', '.join(RESERVED_LABEL_DOMAINS)}, or below one)",
)

EnvName = Annotated[str, Field(min_length=1, max_length=128, pattern="^[A-Za-z_][A-Za-z0-9_]*$"), Obeys(_ENV_NAME_RULE)]


class ResourcesSpec(ApiModel):
    """Devices, memory and processor time of the trainer's pod."""

    rules = (
        Rule(
            cel="!has(self.minGpuMemory) || self.gpus > 0",
            holds=lambda resources: resources.min_gpu_memory is None or resources.gpus > 0,
            message="minGpuMemory is for runs on a GPU; remove it, or set gpus",
            field="minGpuMemory",
        ),
        Rule(
            cel="self.gpuProducts.size() == 0 || self.gpus > 0",
            holds=lambda resources: not resources.gpu_products or resources.gpus > 0,
            message="gpuProducts is for runs on a GPU; remove it, or set gpus",
            field="gpuProducts",
        ),
        Rule(
            cel="!has(self.gpuClaimTemplate) || self.gpus > 0",
            holds=lambda resources: resources.gpu_claim_template is None or resources.gpus > 0,
            message="gpuClaimTemplate is for runs on a GPU; remove it, or set gpus to the number of GPUs that the template asks for",
            field="gpuClaimTemplate",
        ),
        Rule(
            cel="!has(self.gpuClaimTemplate) || self.gpuResource == 'nvidia.com/gpu'",
            holds=lambda resources: resources.gpu_claim_template is None or resources.gpu_resource == GPU_RESOURCE,
            message="gpuResource is for device plugins; remove it beside gpuClaimTemplate",
            field="gpuResource",
        ),
        Rule(
            cel="!has(self.gpuClaimTemplate) || (!has(self.minGpuMemory) && self.gpuProducts.size() == 0)",
            holds=lambda resources: (
                resources.gpu_claim_template is None or (resources.min_gpu_memory is None and not resources.gpu_products)
            ),
            message="minGpuMemory and gpuProducts exclude gpuClaimTemplate: select the device in the template",
            field="gpuClaimTemplate",
        ),
    )

    gpus: Annotated[int, Field(ge=0, le=MAX_GPUS)] = 1
    """GPUs of each pod of the run; 0 trains on the CPU."""
    nodes: Annotated[int, Field(ge=1, le=MAX_NODES)] = 1
    """Pods of the run, each with `gpus` of its own, in which the model is trained together: a step learns `perDeviceBatchSize` times
    `gradientAccumulationSteps` examples in each process. All start, stop and begin anew together. There is one process for each GPU, or
    one in each pod without GPUs. `onOutOfMemory: stepDown` is for one process alone: a run of several fails."""
    gpu_resource: ResourceName = GPU_RESOURCE
    """Extended resource that a GPU is asked for by: `nvidia.com/gpu`, a MIG profile such as `nvidia.com/mig-3g.40gb`, or a share such
    as `nvidia.com/gpu.shared` (time-slicing or MPS)."""
    gpu_claim_template: DnsName | None = None
    """ResourceClaimTemplate (`resource.k8s.io/v1`) in the run's namespace by which the pod claims its GPUs, in place of `gpuResource`;
    `gpus` must be the number of GPUs that it asks for."""
    min_gpu_memory: MemoryQuantity | None = None
    """Place the pod only on nodes whose GPUs have this much memory, by the label of GPU feature discovery: `nvidia.com/gpu.memory`, of a
    MIG profile its own, such as `nvidia.com/mig-3g.40gb.memory`. A GPU sold with 80 GB may have 79.6 GiB."""
    gpu_products: Annotated[list[Annotated[LabelValue, Field(min_length=1)]], Field(max_length=16)] = Field(default_factory=list)
    """Place the pod only on nodes with one of these GPUs, by the label of GPU feature discovery: `nvidia.com/gpu.product`, of a MIG
    profile its own. Values as on the nodes, such as `NVIDIA-H100-80GB-HBM3`."""
    cpu: CpuQuantity = "2"
    """Processor time that the pod asks for; it may use more."""
    memory: MemoryQuantity = "16Gi"
    """Memory that the pod asks for and is limited to."""
    ephemeral_storage: MemoryQuantity | None = None
    """Local disk that the pod asks for: the base model, the prepared data and one checkpoint must fit."""


class SchedulingSpec(ApiModel):
    """Queue and priority."""

    queue_name: QueueName | None = None
    """Kueue LocalQueue that the run waits in; it then starts when Kueue admits it."""
    priority_class_name: DnsName | None = None
    """PriorityClass of the pod. A change takes effect with the next attempt."""
    workload_priority_class_name: QueueName | None = None
    """Kueue WorkloadPriorityClass by which the queue orders and preempts the run; without it, that is `priorityClassName`'s part
    too. It may be changed at any time, but not taken away; it is added only while the run is not admitted."""
    gang: Literal["volcano", "coscheduling"] | None = None
    """Scheduler that gives nodes to all pods of a run of several `resources.nodes`, or to none: `volcano`, or `coscheduling` (the
    plugin of kubernetes-sigs/scheduler-plugins). The chart's `gangScheduling` must name it. Beside Kueue it sees to the nodes, and
    Kueue to the quota."""
    termination_grace_period_seconds: Annotated[int, Field(ge=1, le=86_400)] | None = None
    """Least time between SIGTERM and SIGKILL, in seconds; the operator's own setting if it is not given. An attempt gets more where
    steps and checkpoints were measured to take longer."""


class Toleration(ApiModel):
    """A toleration, as in a pod."""

    rules = (
        Rule(
            cel="has(self.key) || self.operator == 'Exists'",
            holds=lambda toleration: toleration.key is not None or toleration.operator == "Exists",
            message="operator must be Exists where key is not given",
            field="operator",
        ),
        Rule(
            cel="!has(self.value) || self.value == '' || self.operator == 'Equal'",
            holds=lambda toleration: not toleration.value or toleration.operator == "Equal",
            message="value is for the operator Equal; remove it",
            field="value",
        ),
        Rule(
            cel="!has(self.tolerationSeconds) || (has(self.effect) && self.effect == 'NoExecute')",
            holds=lambda toleration: toleration.toleration_seconds is None or toleration.effect == "NoExecute",
            message="tolerationSeconds is for the effect NoExecute; remove it, or set effect to NoExecute",
            field="tolerationSeconds",
        ),
    )

    key: LabelKey | None = None
    """Taint key; none matches every key."""
    operator: Literal["Exists", "Equal"] = "Equal"
    """How `value` is compared."""
    value: LabelValue | None = None
    """Taint value, for `Equal`."""
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    """Taint effect; none matches every effect."""
    toleration_seconds: Annotated[int, Field(ge=0, le=31_536_000)] | None = None
    """How long a `NoExecute` taint is tolerated, in seconds."""


class EnvVar(ApiModel):
    """An environment variable that is no secret."""

    name: EnvName
    """Name; the prefixes `FINETUNE_`, `KUBERNETES_`, `LD_`, `NVIDIA_` and `PYTHON` are reserved."""
    value: Annotated[str, Field(max_length=4096)] = ""
    """Value, in plain sight: put secrets in a Secret."""


class PodSpec(ApiModel):
    """The few parts of the trainer's pod that are its user's to set. There is no free pod template: it would hand out the cluster."""

    node_selector: Annotated[dict[LabelKey, LabelValue], Field(max_length=32)] = Field(default_factory=dict)
    """Node labels that the pod needs."""
    tolerations: Annotated[list[Toleration], Field(max_length=32)] = Field(default_factory=list)
    """Taints that the pod bears. When GPUs are asked for, those for `gpuResource` and `nvidia.com/gpu` are always added."""
    labels: Annotated[dict[LabelKey, LabelValue], Field(max_length=32), Obeys(LABEL_DOMAIN_RULE)] = Field(default_factory=dict)
    """Labels added to Job and pod; the domains of Kubernetes, Kueue and this operator are reserved."""
    env: Annotated[list[EnvVar], Field(max_length=64), UniqueBy("name")] = Field(default_factory=list)
    """Environment variables added to the trainer."""
    image_pull_secrets: Annotated[list[SecretReference], Field(max_length=8), UniqueBy("name")] = Field(default_factory=list)
    """Secrets by which the trainer's image is pulled."""
