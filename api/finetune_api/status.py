"""Status of a FineTuneJob: for people the phase, for machines the conditions."""

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field

from finetune_api.artifact import Artifact
from finetune_api.base import StoredModel, Timestamp
from finetune_api.cache_usage import ModelCacheStatus
from finetune_api.defaults import RecordedDefaults
from finetune_api.progress import DatasetCounts, Metrics, Progress
from finetune_api.rules import UniqueBy


class Phase(StrEnum):
    """Where the run stands, for people."""

    PENDING = "Pending"
    """Accepted; waits for its Job or pod."""
    QUEUED = "Queued"
    """Waits in its queue."""
    STARTING = "Starting"
    """Has a pod, which doesn't train yet."""
    RUNNING = "Running"
    """Trains."""
    SUSPENDED = "Suspended"
    """Suspended by its user."""
    SUCCEEDED = "Succeeded"
    """Done, and its artifact verified."""
    FAILED = "Failed"
    """Ended without a result."""

    @property
    def is_terminal(self) -> bool:
        """True of a phase that is never left."""
        return self in (Phase.SUCCEEDED, Phase.FAILED)


class ConditionType(StrEnum):
    """Conditions of a FineTuneJob."""

    ACCEPTED = "Accepted"
    """The specification can be carried out."""
    ADMITTED = "Admitted"
    """The cluster lets the run go ahead: no queue or quota holds it back."""
    RUNNING = "Running"
    """The trainer runs."""
    SUSPENDED = "Suspended"
    """The run is suspended, and no pod is left."""
    SUCCEEDED = "Succeeded"
    """The whole in one: True done, False failed, Unknown on its way."""
    RECONCILING = "Reconciling"
    """kstatus: on its way."""
    STALLED = "Stalled"
    """kstatus: can't go on without help."""


class Condition(StoredModel):
    """A condition as in `metav1.Condition`."""

    type: Annotated[str, Field(max_length=64)]
    """Name of the condition."""
    status: Literal["True", "False", "Unknown"]
    """Whether it holds."""
    reason: Annotated[str, Field(min_length=1, max_length=128)]
    """Why, for machines."""
    message: Annotated[str, Field(max_length=4096)] = ""
    """Why, for people."""
    last_transition_time: Timestamp
    """When `status` last changed."""
    observed_generation: Annotated[int, Field(ge=0)] | None = None
    """Generation of the specification that it speaks of."""


class PodReference(StoredModel):
    """The pod that runs or ran last."""

    name: Annotated[str, Field(max_length=253)]
    """Name of the pod."""
    uid: Annotated[str, Field(max_length=64)]
    """UID of the pod."""
    node_name: Annotated[str, Field(max_length=253)] | None = None
    """Node that it is on."""
    start_time: Timestamp | None = None
    """When its container started."""
    end_time: Timestamp | None = None
    """When it ended; set once its time is in `gpuSeconds`."""


class QueueStatus(StoredModel):
    """Where the run stands with its queue (Kueue)."""

    name: Annotated[str, Field(max_length=253)]
    """The LocalQueue."""
    workload: Annotated[str, Field(max_length=253)] | None = None
    """Kueue's Workload of the present attempt."""
    cluster_queue: Annotated[str, Field(max_length=253)] | None = None
    """The ClusterQueue that has reserved quota."""
    position: Annotated[int, Field(ge=1)] | None = None
    """Place in the LocalQueue while the run waits, from 1; looked up now and then, where Kueue shows it."""
    requeue_time: Timestamp | None = None
    """When Kueue considers the run again, after an eviction with a back-off."""


class FineTuneJobStatus(StoredModel):
    """What the operator has seen. The reconciler writes all of it but `progress`, `metrics` and `dataset`, which come from reports."""

    observed_generation: Annotated[int, Field(ge=-1)] | None = None
    """Generation of the specification that this status speaks of; -1 before the operator has seen it."""
    phase: Phase | None = None
    """Where the run stands, for people."""
    conditions: Annotated[list[Condition], Field(max_length=16), UniqueBy("type")] = Field(default_factory=list)
    """Where the run stands, for machines."""
    attempt: Annotated[int, Field(ge=0)] | None = None
    """Number of the attempt, from 0."""
    defaults: RecordedDefaults | None = None
    """What the platform gave the run beside what it says itself, as resolved when its first attempt was claimed; it never changes
    afterwards. Absent where that was nothing."""
    job_name: Annotated[str, Field(max_length=63)] | None = None
    """The Job of the attempt."""
    pod: PodReference | None = None
    """The pod that runs or ran last."""
    restarts: Annotated[int, Field(ge=0)] = 0
    """Pods started beyond the first, for whatever cause."""
    gpus: Annotated[int, Field(ge=0)] | None = None
    """GPUs of the run."""
    gpu_seconds: Annotated[int, Field(ge=0)] = 0
    """GPU time of pods that have ended, in GPU-seconds."""
    queue: QueueStatus | None = None
    """Where the run stands with its queue; absent without one."""
    queued_since: Timestamp | None = None
    """Since when the run waits for its queue, its quota or a node; absent while it doesn't."""
    queued_seconds: Annotated[int, Field(ge=0)] = 0
    """Time spent waiting for queue, quota or node, in seconds: waits that are over."""
    running_seconds: Annotated[int, Field(ge=0)] = 0
    """Time spent running, in seconds: pods that have ended."""
    failures: Annotated[int, Field(ge=0)] = 0
    """Ends of pods that count against `backoffLimit`, over all attempts."""
    interruptions: Annotated[int, Field(ge=0)] = 0
    """Ends of pods that don't: preemption, drain, eviction, a lost node, suspension."""
    attempt_interruptions: Annotated[int, Field(ge=0)] = 0
    """The same, of the present attempt."""
    start_time: Timestamp | None = None
    """When the first pod started to run."""
    completion_time: Timestamp | None = None
    """When the run ended."""
    model_cache: ModelCacheStatus | None = None
    """How full the shared cache of base models was when the newest pod looked; absent without one."""
    progress: Progress | None = None
    """How far the run is."""
    metrics: Metrics | None = None
    """What the trainer measured."""
    dataset: DatasetCounts | None = None
    """What became of the data."""
    artifacts: Annotated[list[Artifact], Field(max_length=8)] = Field(default_factory=list)
    """What the run left behind, published and verified."""
