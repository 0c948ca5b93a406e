"""What the run is estimated to need of the GPU, said before the model is loaded."""

import json
import logging
from pathlib import Path

from finetune_api.estimate import ModelShape, ShapeUnknown, compute_changes_that_fit, compute_estimate, read_shape
from finetune_api.spec import FineTuneJobSpec, ResourcesSpec
from finetune_api.trainer_config import TrainerConfig
from finetune_trainer.device import Device

logger = logging.getLogger(__name__)

_NAMED = 3
"""Changes that are named."""


def estimate_memory(config: TrainerConfig, device: Device, base: Path, teacher: Path | None) -> int | None:
    """Return the memory of one GPU that the run needs, in bytes; None where it can't be estimated. Says so where the GPU has less.

    The run goes on either way: an estimate is no measurement, and running out of memory is got over (`training.onOutOfMemory`).

    :param base: folder of the base model's files.
    :param teacher: folder of the teacher's.
    """
    if device.kind != "cuda":
        return None
    spec = FineTuneJobSpec.model_construct(
        model=config.model,
        dataset=config.dataset,
        method=config.method,
        training=config.training,
        evaluation=config.evaluation,
        output=config.output,
        resources=ResourcesSpec(gpus=config.group.processes, nodes=config.group.nodes) if config.group is not None else ResourcesSpec(),
    )
    try:
        shape, taught = _read(base), _read(teacher) if teacher is not None else None
        estimate = compute_estimate(shape, spec, taught)
    except (ShapeUnknown, OSError, ValueError) as error:
        logger.info("the memory that the run needs can't be estimated: %s", error)
        return None
    logger.info("the run needs about %.1f GiB of the GPU, by estimate", estimate.total_bytes / 2**30)
    has = _measure_total(device)
    if estimate.total_bytes > has:
        changes = compute_changes_that_fit(shape, spec, has, taught)[:_NAMED]
        advice = f"; it would fit with {'; or with '.join(map(str, changes))}" if changes else ""
        logger.warning("the GPU has %.1f GiB: the run will probably run out of memory%s", has / 2**30, advice)
    return estimate.total_bytes


def _read(folder: Path) -> ModelShape:
    return read_shape(json.loads((folder / "config.json").read_text(encoding="utf-8")))


def _measure_total(device: Device) -> int:
    import torch  # noqa: PLC0415  seconds to import

    return int(torch.cuda.get_device_properties(device.index).total_memory)
