"""The specification of a FineTuneJob, a module for each of its parts."""

from finetune_api.spec.adapter import AdapterSpec
from finetune_api.spec.evaluation import EvaluationSpec, GenerationSpec, HarnessTaskSpec, SamplesSpec, TaskSpec
from finetune_api.spec.job import FineTuneJobSpec
from finetune_api.spec.method import MethodSpec, QuantizationSpec
from finetune_api.spec.objective import DistillSpec, DpoSpec, GrpoSpec, KtoSpec, OrpoSpec, RewardFunction, RewardSpec
from finetune_api.spec.output import GgufSpec, GptqSpec, OutputSpec, PushSpec
from finetune_api.spec.placement import PodSpec, ResourcesSpec, SchedulingSpec, Toleration
from finetune_api.spec.source import AdditionalDatasetSpec, DatasetSpec, EvalDatasetSpec, ModelSpec, SecretReference
from finetune_api.spec.tracking import TrackerSpec
from finetune_api.spec.training import CheckpointSpec, DivergenceSpec, EarlyStoppingSpec, TrainingSpec

__all__ = [
    "AdapterSpec",
    "AdditionalDatasetSpec",
    "CheckpointSpec",
    "DatasetSpec",
    "DistillSpec",
    "DivergenceSpec",
    "DpoSpec",
    "EarlyStoppingSpec",
    "EvalDatasetSpec",
    "EvaluationSpec",
    "FineTuneJobSpec",
    "GenerationSpec",
    "GgufSpec",
    "GptqSpec",
    "GrpoSpec",
    "HarnessTaskSpec",
    "KtoSpec",
    "MethodSpec",
    "ModelSpec",
    "OrpoSpec",
    "OutputSpec",
    "PodSpec",
    "PushSpec",
    "QuantizationSpec",
    "ResourcesSpec",
    "RewardFunction",
    "RewardSpec",
    "SamplesSpec",
    "SchedulingSpec",
    "SecretReference",
    "TaskSpec",
    "Toleration",
    "TrackerSpec",
    "TrainingSpec",
]
