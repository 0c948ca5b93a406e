"""What the trainer's pod asks of the cluster."""

from typing import Annotated, Final, Literal

from pydantic import Field

from finetune_api.base import ApiModel
from finetune_api.quantity import Quantity
from finetune_api.rules import Obeys, Rule
from finetune_api.spec.source import DnsName, SecretReference

_DOMAIN = r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?"
_NAME = r"[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?"
LabelKey = Annotated[str, Field(min_length=1, max_length=317, pattern=f"^({_DOMAIN}/)?{_NAME}$")]
LabelValue = Annotated[str, Field(max_length=63, pattern=f"^({_NAME})?$")]
ResourceName = Annotated[str, Field(min_length=3, max_length=253, pattern=f"^{_DOMAIN}/{_NAME}$")]

RESERVED_LABEL_DOMAINS: Final = ("finetune.dev", "kubernetes.io", "k8s.io", "x-k8s.io")
"""Labels of these domains and of those below them belong to the operator, to Kubernetes and to Kueue."""
RESERVED_ENV_PREFIXES: Final = ("FINETUNE_", "KUBERNETES_", "LD_", "NVIDIA_", "PYTHON")
"""Variables that the trainer's own configuration, its interpreter and the device plugin (`NVIDIA_VISIBLE_DEVICES`) go by."""

ENV_NAME_RULE: Final = Rule(
    cel=f"!{list(RESERVED_ENV_PREFIXES)}.exists(prefix, self.startsWith(prefix))",
    holds=lambda name: not name.startswith(RESERVED_ENV_PREFIXES),
    message=f"must not begin with a reserved prefix ({', '.join(RESERVED_ENV_PREFIXES)})",
)
LABEL_DOMAIN_RULE: Final = Rule(
    cel=f"self.all(key, !{list(RESERVED_LABEL_DOMAINS)}.exists(domain, key.startsWith(domain + '/') || key.contains('.' + domain + '/')))",
    holds=lambda labels: (
        not any(f".{key}".split("/")[0].endswith(f".{domain}") and "/" in key for key in labels for domain in RESERVED_LABEL_DOMAINS)
    ),
    message=f"must not have labels of a reserved domain ({', '.join(RESERVED_LABEL_DOMAINS)})",
)


EnvName = Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$"), Obeys(ENV_NAME_RULE)]


class ResourcesSpec(ApiModel):
    """Devices, memory and processor time of the trainer's pod."""

    gpus: Annotated[int, Field(ge=0, le=1)] = 1
    """GPUs of the run; 0 trains on the CPU."""
    nodes: Annotated[int, Field(ge=1, le=1)] = 1
    """Nodes (pods) of the run."""
    gpu_resource: ResourceName = "nvidia.com/gpu"
    """Extended resource that a GPU is asked for by: `nvidia.com/gpu`, or a MIG profile such as `nvidia.com/mig-3g.40gb`."""
    min_gpu_memory: Quantity | None = None
    """Place the pod only on nodes whose GPUs have this much memory (by the label `nvidia.com/gpu.memory`)."""
    cpu: Quantity = "2"
    """Processor time that the pod asks for; it may use more."""
    memory: Quantity = "16Gi"
    """Memory that the pod asks for and is limited to."""
    ephemeral_storage: Quantity | None = None
    """Local disk that the pod asks for: the base model, the prepared data and one checkpoint must fit."""


class SchedulingSpec(ApiModel):
    """Queue and priority."""

    queue_name: DnsName | None = None
    """Kueue LocalQueue that the run waits in; it then starts when Kueue admits it."""
    priority_class_name: DnsName | None = None
    """PriorityClass of the pod. A change takes effect with the next attempt."""


class Toleration(ApiModel):
    """A toleration, as in a pod."""

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
    """Taints that the pod bears. One for `gpuResource` is always added when GPUs are asked for."""
    labels: Annotated[dict[LabelKey, LabelValue], Field(max_length=32), Obeys(LABEL_DOMAIN_RULE)] = Field(default_factory=dict)
    """Labels added to Job and pod; the domains of Kubernetes, Kueue and this operator are reserved."""
    env: Annotated[list[EnvVar], Field(max_length=64)] = Field(default_factory=list)
    """Environment variables added to the trainer."""
    image_pull_secrets: Annotated[list[SecretReference], Field(max_length=8)] = Field(default_factory=list)
    """Secrets by which the trainer's image is pulled."""
