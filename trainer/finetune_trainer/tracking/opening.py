"""From the specification to trackers."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from finetune_api.names import ENV_PREFIX_TRACKER, number_prefix
from finetune_api.spec import TrackerSpec
from finetune_api.trainer_config import TrainerConfig
from finetune_trainer.storage import Store
from finetune_trainer.tracking.mlflow_tracker import MlflowTracker
from finetune_trainer.tracking.tensorboard_tracker import TensorBoardTracker
from finetune_trainer.tracking.tracker import RunInfo, Tracker
from finetune_trainer.tracking.wandb_tracker import WandbTracker

_KEYS: Final = {
    "mlflow": ("MLFLOW_TRACKING_TOKEN", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"),
    "wandb": ("WANDB_API_KEY",),
    "tensorboard": (),
}
"""Keys of a Secret that each tracker takes; no other reaches the environment of its client."""


def open_trackers(
    config: TrainerConfig, settings: Mapping[str, str], output: Store, folder: Path, environ: Mapping[str, str]
) -> list[Tracker]:
    """Return the trackers of a run. Nothing is contacted yet."""
    return [
        _open(
            spec,
            RunInfo(config.job.namespace, config.job.name, config.job.uid, spec.project or config.job.namespace, settings),
            output,
            folder / spec.type,
            {key: value.strip() for key in _KEYS[spec.type] if (value := environ.get(number_prefix(ENV_PREFIX_TRACKER, index) + key))},
        )
        for index, spec in enumerate(config.tracking)
    ]


def _open(spec: TrackerSpec, info: RunInfo, output: Store, folder: Path, credentials: Mapping[str, str]) -> Tracker:
    if spec.type == "tensorboard":
        return TensorBoardTracker(output, folder, info)
    if spec.type == "mlflow":
        return MlflowTracker(spec.url or "", info, credentials)
    return WandbTracker(info, output, folder, credentials, url=spec.url, entity=spec.entity, offline=spec.offline)
