"""The specification of a FineTuneJob, a module for each of its parts."""

from finetune_api.spec.adapter import AdapterSpec
from finetune_api.spec.evaluation import EvaluationSpec, GenerationSpec, SamplesSpec, TaskSpec
from finetune_api.spec.job import FineTuneJobSpec
from finetune_api.spec.method import MethodSpec, QuantizationSpec
from finetune_api.spec.output import GgufSpec, OutputSpec, PushSpec
from finetune_api.spec.placement import PodSpec, ResourcesSpec, SchedulingSpec, Toleration
from finetune_api.spec.source import DatasetSpec, EvalDatasetSpec, ModelSpec, SecretReference
from finetune_api.spec.tracking import TrackerSpec
from finetune_api.spec.training import CheckpointSpec, TrainingSpec

__all__ = [
    "AdapterSpec",
    "CheckpointSpec",
    "DatasetSpec",
    "EvalDatasetSpec",
    "EvaluationSpec",
    "FineTuneJobSpec",
    "GenerationSpec",
    "GgufSpec",
    "MethodSpec",
    "ModelSpec",
    "OutputSpec",
    "PodSpec",
    "PushSpec",
    "QuantizationSpec",
    "ResourcesSpec",
    "SamplesSpec",
    "SchedulingSpec",
    "SecretReference",
    "TaskSpec",
    "Toleration",
    "TrackerSpec",
    "TrainingSpec",
]
