"""The trainer of the objectives that learn tokens: fine-tuning and continued pre-training."""

from typing import Any

from trl.trainer.sft_trainer import SFTTrainer

from finetune_trainer.group import Group
from finetune_trainer.run.adapting import AdapterHooks
from finetune_trainer.run.loop import RunLoop


class TokenMean:
    """Mixed into a trainer that learns tokens: the held-out loss is the mean over tokens."""

    def __init__(self, **options: Any) -> None:  # noqa: ANN401
        self._held_out_loss = 0.0
        self._held_out_tokens = 0
        super().__init__(**options)

    def evaluation_loop(self, *args: Any, **options: Any) -> Any:  # noqa: ANN401
        """As the library's, but the loss is the mean over tokens, not over batches of differing numbers of them."""
        self._held_out_loss, self._held_out_tokens = 0.0, 0
        output = super().evaluation_loop(*args, **options)  # type: ignore[misc]
        metrics = output.metrics or {}
        names = [name for name in metrics if name.endswith("_loss")]
        group: Group = self.group  # type: ignore[attr-defined]  # of RunLoop
        loss, tokens = group.sum(self._held_out_loss), group.sum(self._held_out_tokens)
        if names and tokens:
            metrics[names[0]] = loss / tokens
        return output

    def prediction_step(self, model: Any, inputs: Any, *args: Any, **options: Any) -> Any:  # noqa: ANN401
        """One forward pass on held-out data."""
        result = super().prediction_step(model, inputs, *args, **options)  # type: ignore[misc]
        tokens = int((inputs["labels"][..., 1:] != -100).sum())
        self._held_out_loss += float(result[0]) * tokens
        self._held_out_tokens += tokens
        return result


class RunTrainer(TokenMean, RunLoop, AdapterHooks, SFTTrainer):
    """``SFTTrainer`` for one run."""
