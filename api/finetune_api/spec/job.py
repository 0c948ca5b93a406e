"""The whole specification."""

from typing import Annotated, Final

from pydantic import Field

from finetune_api.base import ApiModel
from finetune_api.rules import Rule, UniqueBy
from finetune_api.spec.adapter import SPEC_RULES as ADAPTER_SPEC_RULES
from finetune_api.spec.compiling import COMPILING_SPEC_RULES
from finetune_api.spec.evaluation import EvaluationSpec
from finetune_api.spec.group import GROUP_SPEC_RULES
from finetune_api.spec.method import MethodSpec
from finetune_api.spec.objective import OBJECTIVE_SPEC_RULES
from finetune_api.spec.output import OutputSpec
from finetune_api.spec.placement import PodSpec, ResourcesSpec, SchedulingSpec
from finetune_api.spec.sharding import SHARDING_SPEC_RULES
from finetune_api.spec.source import DatasetSpec, ModelSpec
from finetune_api.spec.tracking import MAX_TRACKERS, TrackerSpec
from finetune_api.spec.training import TrainingSpec

MUTABLE_FIELDS: Final = frozenset(
    {
        "suspend",
        "ttlSecondsAfterFinished",
        "activeDeadlineSeconds",
        "scheduling.priorityClassName",
        "scheduling.workloadPriorityClassName",
    }
)
"""Fields of the spec that may change after creation, by path below it."""


class FineTuneJobSpec(ApiModel):
    """What to fine-tune, on what, how, and where the result goes. `model.uri`, `dataset.uri` and `output.uri` are enough."""

    rules = (
        *ADAPTER_SPEC_RULES,
        *OBJECTIVE_SPEC_RULES,
        *GROUP_SPEC_RULES,
        *SHARDING_SPEC_RULES,
        *COMPILING_SPEC_RULES,
        Rule(
            cel="!self.training.activationOffloading || self.resources.gpus > 0",
            holds=lambda spec: not spec.training.activation_offloading or spec.resources.gpus > 0,
            message="is for runs on a GPU: without one, activations are in the node's memory already; remove it, or set resources.gpus",
            field="training.activationOffloading",
        ),
        Rule(
            cel="!self.training.shardOffloading || self.resources.gpus > 0",
            holds=lambda spec: not spec.training.shard_offloading or spec.resources.gpus > 0,
            message="is for runs on GPUs: without them, the model is in the node's memory already; remove it, or set resources.gpus",
            field="training.shardOffloading",
        ),
        Rule(
            cel="self.method.quantization.computeDtype != 'float16' || self.resources.gpus > 0",
            holds=lambda spec: spec.method.quantization.compute_dtype != "float16" or spec.resources.gpus > 0,
            message="method.quantization.computeDtype float16 needs a GPU; use bfloat16 or float32, or set resources.gpus",
            field="method.quantization.computeDtype",
        ),
    )

    model: ModelSpec
    """The base model."""
    dataset: DatasetSpec
    """The data to learn from."""
    method: MethodSpec = Field(default_factory=MethodSpec)
    """How the model is tuned: QLoRA unless said otherwise."""
    training: TrainingSpec = Field(default_factory=TrainingSpec)
    """Hyperparameters."""
    evaluation: EvaluationSpec = Field(default_factory=EvaluationSpec)
    """How the run is judged, beside the held-out loss."""
    tracking: Annotated[list[TrackerSpec], Field(max_length=MAX_TRACKERS), UniqueBy("type")] = Field(default_factory=list)
    """Trackers that the run's figures are sent to."""
    resources: ResourcesSpec = Field(default_factory=ResourcesSpec)
    """Devices, memory and processor time."""
    scheduling: SchedulingSpec = Field(default_factory=SchedulingSpec)
    """Queue and priority."""
    pod: PodSpec = Field(default_factory=PodSpec)
    """The few other parts of the trainer's pod that may be set."""
    output: OutputSpec
    """Where results go."""
    suspend: bool = False
    """Stop the run after a checkpoint and give its GPUs back; `false` lets it go on from there."""
    backoff_limit: Annotated[int, Field(ge=0, le=100)] = 3
    """Crashes to get over before the run fails. Preemption, drain and suspension are not counted; faults that no retry can mend
    fail the run at once."""
    active_deadline_seconds: Annotated[int, Field(ge=1, le=31_536_000)] | None = None
    """Longest time from start (or from the last resume) to end, in seconds."""
    ttl_seconds_after_finished: Annotated[int, Field(ge=0, le=2**31 - 1)] | None = 604_800
    """How long the run's Job and pods (and with them the logs) are kept after its end, in seconds. The FineTuneJob itself
    stays. `null` keeps them for good, with `kubectl apply --server-side`; without that option kubectl drops a null, so that the
    default holds: write 2147483647 there."""
