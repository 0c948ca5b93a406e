"""TRL's trainer, with what a run in a cluster needs: it stops when asked, and refuses a loss that isn't finite."""

import contextlib
import math
import time
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerState
from transformers.trainer import TRAINER_STATE_NAME
from trl.trainer.sft_trainer import SFTTrainer

from finetune_trainer.errors import LossDiverged
from finetune_trainer.interruption import Interruption
from finetune_trainer.run.adapting import AdapterHooks


class EvaluationStopped(Exception):
    """The run was asked to stop in the middle of an evaluation."""


class RunTrainer(AdapterHooks, SFTTrainer):
    """``SFTTrainer`` for one run. Steps are computed exactly as TRL does."""

    def __init__(self, *, interruption: Interruption, **options: Any) -> None:  # noqa: ANN401
        self._interruption = interruption
        self._held_out_loss = 0.0
        self._held_out_tokens = 0
        self.saving_begun = 0.0
        """When the newest checkpoint was begun, on the monotonic clock."""
        super().__init__(**options)

    @property
    def tokens_seen(self) -> int:
        """Training tokens so far, padding not counted."""
        return int(self._total_train_tokens)

    @tokens_seen.setter
    def tokens_seen(self, tokens: int) -> None:
        self._total_train_tokens = tokens

    def training_step(self, *args: Any, **options: Any) -> torch.Tensor:  # noqa: ANN401
        """One forward and backward pass.

        :raises LossDiverged: the loss is not finite. The optimizer has not seen it.
        """
        loss: torch.Tensor = super().training_step(*args, **options)  # type: ignore[no-untyped-call]
        if not math.isfinite(value := loss.item()):  # no wait of its own: TRL has read its metrics from the device just now
            raise LossDiverged(
                f"the loss is {value} at step {self.state.global_step + 1} of {self.state.max_steps}; nothing of this step is kept. "
                "Lower training.learningRate, or look at the rows near this step"
            )
        return loss

    def evaluate(self, *args: Any, **options: Any) -> dict[str, float]:  # noqa: ANN401
        """Measure the held-out loss. The random numbers of training are left alone: when a run evaluates does not change what it learns."""
        devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
        with torch.random.fork_rng(devices=devices):
            return dict(super().evaluate(*args, **options))

    def evaluate_at_end(self) -> None:
        """Measure the held-out loss after the last step, unless that is done or the run is asked to stop."""
        if any("eval_loss" in entry and entry["step"] == self.state.global_step for entry in self.state.log_history):
            return
        with contextlib.suppress(EvaluationStopped):
            self.evaluate()

    def _evaluate(self, *args: Any, **options: Any) -> dict[str, float]:  # noqa: ANN401
        try:
            return dict(super()._evaluate(*args, **options))
        except EvaluationStopped:
            self.control.should_evaluate = False
            self.control.should_training_stop = True
            self.control.should_save = self.state.global_step > 0
            return {}

    def evaluation_loop(self, *args: Any, **options: Any) -> Any:  # noqa: ANN401
        """As the library's, but the loss is the mean over tokens, not over batches of differing numbers of them."""
        self._held_out_loss, self._held_out_tokens = 0.0, 0
        output = super().evaluation_loop(*args, **options)
        metrics = output.metrics or {}
        names = [name for name in metrics if name.endswith("_loss")]
        if names and self._held_out_tokens:
            metrics[names[0]] = self._held_out_loss / self._held_out_tokens
        return output

    def prediction_step(self, model: Any, inputs: Any, *args: Any, **options: Any) -> Any:  # noqa: ANN401
        """One forward pass on held-out data."""
        if self._interruption.requested:
            raise EvaluationStopped
        result = super().prediction_step(model, inputs, *args, **options)
        tokens = int((inputs["labels"][..., 1:] != -100).sum())
        self._held_out_loss += float(result[0]) * tokens
        self._held_out_tokens += tokens
        return result

    def _save_checkpoint(self, *args: Any, **options: Any) -> None:  # noqa: ANN401
        self.saving_begun = time.monotonic()
        super()._save_checkpoint(*args, **options)  # type: ignore[no-untyped-call]

    def create_model_card(self, *args: Any, **options: Any) -> None:  # noqa: ANN401
        """Write none: the published adapter has one of its own."""

    def restore(self, checkpoint: Path) -> None:
        """Take up the state and the adapter of ``checkpoint``; the rest follows in ``train(resume_from_checkpoint=…)``."""
        self.state = TrainerState.load_from_json(str(checkpoint / TRAINER_STATE_NAME))
        self.args.eval_on_start = False
        self._load_from_checkpoint(str(checkpoint))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        optimizer = getattr(self.optimizer, "optimizer", self.optimizer)
        if checkpoint is not None and getattr(optimizer, "is_paged", False):
            page_states(optimizer)


def page_states(optimizer: Any) -> None:  # noqa: ANN401
    """Move what a paged bitsandbytes optimizer has loaded into paged memory: it loads into plain GPU memory, and would then need more of
    it after a resume than before.
    """
    for parameter, state in optimizer.state.items():
        if not isinstance(parameter, torch.Tensor) or parameter.device.type != "cuda":
            continue
        for name in ("state1", "state2"):
            loaded = state.get(name)
            if loaded is not None and not getattr(loaded, "is_paged", False):
                buffer = optimizer.get_state_buffer(parameter, dtype=loaded.dtype)
                if getattr(buffer, "is_paged", False):
                    torch.cuda.synchronize(parameter.device)
                    buffer.copy_(loaded.to("cpu"))
                    state[name] = buffer
