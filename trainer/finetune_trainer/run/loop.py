"""What every objective's trainer has in common: it stops when asked, refuses a loss that diverges, and goes on from checkpoints."""

import contextlib
import math
import time
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerState
from transformers.trainer import TRAINER_STATE_NAME

from finetune_trainer.errors import LossDiverged
from finetune_trainer.group import Group
from finetune_trainer.interruption import Interruption
from finetune_trainer.run.divided import DividedLoop
from finetune_trainer.run.survival import SpikeGuard
from finetune_trainer.tracing import OpenSpan, no_span


class EvaluationStopped(Exception):
    """The run was asked to stop in the middle of an evaluation."""


class RunLoop(DividedLoop):
    """Mixed into one of TRL's trainers for one run. Steps are computed exactly as TRL does.

    :param group: the processes that compute each step together.
    :param guard: told the loss of each step; without one only a loss that is not finite counts as diverged.
    """

    state: Any  # of the trainer that it is mixed into
    control: Any

    def __init__(
        self,
        *,
        interruption: Interruption,
        guard: SpikeGuard | None = None,
        group: Group | None = None,
        **options: Any,  # noqa: ANN401
    ) -> None:
        self._interruption = interruption
        self.group = group or Group(None, {})
        self.guard = guard or SpikeGuard(None)
        self._loss_of_step = 0.0
        self._rate_factor = 1.0
        self.saving_begun = 0.0
        """When the newest checkpoint was begun, on the monotonic clock."""
        self.span: OpenSpan = no_span
        """Opens a span of the run's trace."""
        super().__init__(**options)

    def scale_learning_rate(self, factor: float) -> None:
        """Multiply the learning rate that a checkpoint is resumed with; before ``train``."""
        self._rate_factor = factor

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
        loss = super().training_step(*args, **options)
        if not math.isfinite(value := loss.item()):  # no wait of its own: TRL has read its metrics from the device just now
            raise LossDiverged(
                f"the loss is {value} at step {self.state.global_step + 1} of {self.state.max_steps}; nothing of this step is kept. "
                "Lower training.learningRate, or look at the rows near this step"
            )
        self._loss_of_step += value
        return loss

    def end_step(self) -> None:
        """A step is done: look at its loss.

        :raises LossDiverged: the loss has leapt, and stays there.
        """
        loss, self._loss_of_step = self.group.sum(self._loss_of_step) / self.group.size, 0.0
        if self.guard.observe(loss):
            raise LossDiverged(
                f"the loss is {loss:.4g} at step {self.state.global_step} of {self.state.max_steps}, and was above "
                f"{self.guard.limit:.4g} (training.divergence.spikeFactor) in the steps before. Lower training.learningRate"
            )

    def evaluate(self, *args: Any, **options: Any) -> dict[str, float]:  # noqa: ANN401
        """Measure the held-out loss. The random numbers of training are left alone: when a run evaluates does not change what it learns."""
        devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
        with self.span("evaluate", when="between steps", step=self.state.global_step), torch.random.fork_rng(devices=devices):
            return dict(super().evaluate(*args, **options))  # type: ignore[misc]

    def evaluate_at_end(self) -> None:
        """Measure the held-out loss after the last step, unless that is done or the run is asked to stop."""
        if any("eval_loss" in entry and entry["step"] == self.state.global_step for entry in self.state.log_history):
            return
        with contextlib.suppress(EvaluationStopped):
            self.evaluate()

    def _evaluate(self, *args: Any, **options: Any) -> dict[str, float]:  # noqa: ANN401
        try:
            return dict(super()._evaluate(*args, **options))  # type: ignore[misc]
        except EvaluationStopped:
            self.control.should_evaluate = False
            self.control.should_training_stop = True
            self.control.should_save = self.state.global_step > 0
            return {}

    def prediction_step(self, *args: Any, **options: Any) -> Any:  # noqa: ANN401
        """One forward pass on held-out data."""
        if self._interruption.poll():
            raise EvaluationStopped
        return super().prediction_step(*args, **options)  # type: ignore[misc]

    def _save_checkpoint(self, *args: Any, **options: Any) -> None:  # noqa: ANN401
        self.saving_begun = time.monotonic()
        super()._save_checkpoint(*args, **options)  # type: ignore[misc]

    def _save_rng_state(self, output_dir: str) -> None:
        """Save every process's random numbers: the library leaves those of the other pods on their own disks."""
        super()._save_rng_state(output_dir)  # type: ignore[misc]
        if self.group.meets:
            own = Path(output_dir, f"rng_state_{self.group.rank}.pth")
            for rank, content in enumerate(self.group.gather(own.read_bytes())):
                if self.group.leads:
                    own.with_name(f"rng_state_{rank}.pth").write_bytes(content)

    def create_model_card(self, *args: Any, **options: Any) -> None:  # noqa: ANN401
        """Write none: the published adapter has one of its own."""

    def restore(self, checkpoint: Path) -> None:
        """Take up the state and the adapter of ``checkpoint``; the rest follows in ``train(resume_from_checkpoint=…)``."""
        self.state = TrainerState.load_from_json(str(checkpoint / TRAINER_STATE_NAME))
        self.args.eval_on_start = False
        self._load_from_checkpoint(str(checkpoint))  # type: ignore[attr-defined]  # of AdapterHooks

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        optimizer = getattr(self.optimizer, "optimizer", self.optimizer)
        if checkpoint is None:
            return
        if getattr(optimizer, "is_paged", False):
            page_states(optimizer)
        if self._rate_factor != 1.0:
            self._scale_rates(optimizer)

    def _scale_rates(self, optimizer: Any) -> None:  # noqa: ANN401
        scheduler = getattr(self.lr_scheduler, "scheduler", self.lr_scheduler)
        scheduler.base_lrs = [rate * self._rate_factor for rate in scheduler.base_lrs]
        scheduler._last_lr = [rate * self._rate_factor for rate in scheduler._last_lr]
        for group in optimizer.param_groups:
            group["lr"] *= self._rate_factor
            group["initial_lr"] *= self._rate_factor


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
