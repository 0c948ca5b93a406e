"""The shapes of a run's base model and teacher, as the memory estimate needs them."""

from pathlib import Path

from finetune_api.estimate import ModelShape, find_known_shape, read_shape
from finetune_api.spec import FineTuneJobSpec
from finetune_api.spec.source import ModelSpec
from finetune_cli.model_config import ConfigUnavailable, read_model_config


def read_shapes(
    spec: FineTuneJobSpec, config: Path | None = None, teacher_config: Path | None = None
) -> tuple[ModelShape, ModelShape | None]:
    """Return the shape of the base model, and of the teacher where the objective has one.

    :param config: the base model's config.json, or its folder; without it, it is read from where the model lies.
    :param teacher_config: the same of the teacher.
    :raises ConfigUnavailable: one can't be read from here, and the model is not a well-known one.
    :raises ShapeUnknown: the architecture is not one whose layers are known.
    """
    distill = spec.method.distill
    return _read(spec.model, config), _read(distill.teacher, teacher_config) if distill is not None else None


def _read(model: ModelSpec, config: Path | None) -> ModelShape:
    try:
        return read_shape(read_model_config(model, config))
    except ConfigUnavailable:
        known = find_known_shape(model.uri) if config is None else None
        if known is None:
            raise
        return known
