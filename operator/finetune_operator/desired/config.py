"""The trainer's configuration, resolved from the specification."""

from finetune_api.report import JobReference
from finetune_api.spec import FineTuneJobSpec
from finetune_api.trainer_config import DeviceConfig, ReportingConfig, TrainerConfig
from finetune_operator.desired.group import build_group


def build_trainer_config(
    spec: FineTuneJobSpec, job: JobReference, attempt: int, *, simulated_gpus: bool, reporting: ReportingConfig | None
) -> TrainerConfig:
    """Return all that the trainer of ``attempt`` is told. It carries no credentials: those are in the pod's environment."""
    return TrainerConfig(
        job=job,
        attempt=attempt,
        model=spec.model,
        dataset=spec.dataset,
        method=spec.method,
        training=spec.training,
        evaluation=spec.evaluation,
        tracking=spec.tracking,
        output=spec.output,
        device=DeviceConfig(gpus=spec.resources.gpus, allow_cpu=simulated_gpus),
        reporting=reporting,
        group=build_group(spec, job, attempt),
    )
