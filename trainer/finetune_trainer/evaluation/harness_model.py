"""The model of a run as lm-evaluation-harness asks it."""

from collections.abc import Callable
from typing import Any

from lm_eval.models.huggingface import HFLM

from finetune_trainer.evaluation.generating import GenerationStopped


class _HarnessModel(HFLM):  # type: ignore[misc]  # untyped
    """The harness's own, but that it stops when the run is asked to."""

    stop_requested: Callable[[], bool]

    def _model_call(self, *args: Any, **options: Any) -> Any:  # noqa: ANN401
        if self.stop_requested():
            raise GenerationStopped
        return super()._model_call(*args, **options)

    def _model_generate(self, *args: Any, **options: Any) -> Any:  # noqa: ANN401
        if self.stop_requested():
            raise GenerationStopped
        return super()._model_generate(*args, **options)


def build_harness_model(model: Any, tokenizer: Any, batch: int, stop_requested: Callable[[], bool]) -> HFLM:  # noqa: ANN401
    """Wrap ``model``, which stays where and as it is.

    :param tokenizer: one of its own, which the harness changes.
    """
    asked = _HarnessModel(pretrained=model, backend="causal", tokenizer=tokenizer, batch_size=batch)
    asked.stop_requested = stop_requested
    return asked
