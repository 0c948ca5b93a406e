"""The trainer's whole configuration, as the operator puts it in the Job."""

from typing import Annotated, Literal

from pydantic import Field

from finetune_api.base import StoredModel
from finetune_api.names import RENDEZVOUS_PORT, TOKEN_PATH, WORK_DIR
from finetune_api.report import JobReference
from finetune_api.spec.adapter import SPEC_RULES as ADAPTER_SPEC_RULES
from finetune_api.spec.compiling import COMPILING_SPEC_RULES
from finetune_api.spec.evaluation import EvaluationSpec
from finetune_api.spec.method import MethodSpec
from finetune_api.spec.output import OutputSpec
from finetune_api.spec.sharding import SHARDING_SPEC_RULES
from finetune_api.spec.source import DatasetSpec, ModelSpec
from finetune_api.spec.tracking import TrackerSpec
from finetune_api.spec.training import TrainingSpec


class ReportingConfig(StoredModel):
    """How the trainer reaches the operator."""

    url: Annotated[str, Field(pattern=r"^https://")]
    """Where reports are POSTed to."""
    ca_certificate: str
    """PEM of the certificate authority that the receiver's certificate is checked against."""
    token_path: str = TOKEN_PATH
    """File with the bearer token; read anew for each report, since the kubelet renews it."""
    interval_seconds: Annotated[float, Field(gt=0)] = 5.0
    """Shortest time between two reports."""


class DeviceConfig(StoredModel):
    """What the trainer may expect to find."""

    gpus: Annotated[int, Field(ge=0)]
    """GPUs that the pod asked for."""
    allow_cpu: bool = False
    """Train on the CPU although GPUs were asked for: for development clusters that advertise GPUs they don't have."""


class GroupConfig(StoredModel):
    """The processes that train one run together: one for each GPU, or one in each pod where there are none."""

    nodes: Annotated[int, Field(ge=1)]
    """Pods of the run."""
    processes: Annotated[int, Field(ge=1)] = 1
    """Processes in each pod."""
    address: str
    """Where the first pod is reached by all."""
    port: Annotated[int, Field(ge=1, le=65_535)] = RENDEZVOUS_PORT
    """Port that its first process meets the others at."""

    @property
    def size(self) -> int:
        """Processes in all."""
        return self.nodes * self.processes


class TrainerConfig(StoredModel):
    """One run, fully resolved: the same configuration gives the same run, with or without Kubernetes."""

    rules = (*ADAPTER_SPEC_RULES, *SHARDING_SPEC_RULES, *COMPILING_SPEC_RULES)

    schema_version: Literal[1] = 1
    """Version of this format."""
    job: JobReference
    """The run."""
    attempt: Annotated[int, Field(ge=0)] = 0
    """Number of the attempt."""
    model: ModelSpec
    """The base model."""
    dataset: DatasetSpec
    """The data."""
    method: MethodSpec
    """How the model is tuned."""
    training: TrainingSpec
    """Hyperparameters."""
    evaluation: EvaluationSpec = Field(default_factory=EvaluationSpec)
    """How the run is judged."""
    tracking: list[TrackerSpec] = Field(default_factory=list)
    """Trackers that figures are sent to."""
    output: OutputSpec
    """Where results go."""
    device: DeviceConfig
    """What the trainer may expect to find."""
    reporting: ReportingConfig | None = None
    """How to report; absent in local runs."""
    model_cache: str | None = None
    """Root of a shared cache of base models, which is only read; absent without one."""
    group: GroupConfig | None = None
    """The processes that train together; absent where there is one alone."""
    work_dir: str = WORK_DIR
    """Scratch folder: downloads, prepared data, local checkpoints."""

    @property
    def divides_model(self) -> bool:
        """Whether each process holds a part of the base model. A process that trains alone holds all of it, whatever was asked for."""
        return self.training.sharding != "none" and self.group is not None and self.group.size > 1

    @property
    def offloads_parts(self) -> bool:
        """Whether each process holds its part in the node's memory."""
        return self.training.shard_offloading and self.divides_model
