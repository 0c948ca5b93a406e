"""What a training loop does otherwise where the base model is divided over the processes."""

from pathlib import Path
from typing import Any

import torch
from torch.distributed.tensor import DTensor
from transformers.trainer import OPTIMIZER_NAME, SCHEDULER_NAME

from finetune_trainer.model.sharding import average_gradients, divide_optimizer_state, gather_optimizer_state, is_divided


class DividedLoop:
    """Mixed into one of TRL's trainers. Without a divided model it changes nothing.

    The model divides and gathers itself while it computes, and averages the gradients of what it has divided; DDP is not used. What is
    whole in each process is averaged here.
    """

    args: Any  # of the trainer that it is mixed into
    model: Any
    accelerator: Any
    optimizer: Any
    lr_scheduler: Any

    def __init__(self, **options: Any) -> None:  # noqa: ANN401
        super().__init__(**options)
        self.divided = is_divided(self.model)
        if self.divided:
            # Prepared for evaluation, it gets its types but no DDP; the mark keeps the trainer from preparing it once more.
            self.accelerator.prepare_model(self.model, device_placement=False, evaluation_mode=True)
            self.model._is_accelerate_prepared = True

    def _move_model_to_device(self, model: Any, device: torch.device) -> None:  # noqa: ANN401
        """Move ``model`` unless it is divided: it is where it belongs then, and its parts may be meant to stay in the node's memory."""
        if not is_divided(model):
            super()._move_model_to_device(model, device)  # type: ignore[misc]

    def training_step(self, *args: Any, **options: Any) -> torch.Tensor:  # noqa: ANN401
        """One forward and backward pass; after the last of a step, gradients are the mean over all processes."""
        loss: torch.Tensor = super().training_step(*args, **options)  # type: ignore[misc]
        if self.divided and self.accelerator.sync_gradients:
            average_gradients(self.model.parameters())
        return loss

    def _clip_grad_norm(self, model: Any) -> Any:  # noqa: ANN401
        norm = super()._clip_grad_norm(model)  # type: ignore[misc]
        return norm.full_tensor() if isinstance(norm, DTensor) else norm

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:  # noqa: ANN401
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)  # type: ignore[misc]
        return norm.full_tensor() if isinstance(norm, DTensor) else norm

    @property
    def _divides_optimizer(self) -> bool:
        return self.divided and any(isinstance(each, DTensor) for group in self.optimizer.param_groups for each in group["params"])

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        """Save the optimizer whole: another number of processes may go on from it, or one that holds the whole model."""
        if not self._divides_optimizer:
            super()._save_optimizer_and_scheduler(output_dir)  # type: ignore[misc]
            return
        state = gather_optimizer_state(self.optimizer.state_dict(), keeps=self.args.should_save)
        if self.args.should_save:
            torch.save(state, Path(output_dir, OPTIMIZER_NAME))
            torch.save(self.lr_scheduler.state_dict(), Path(output_dir, SCHEDULER_NAME))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None or not self._divides_optimizer:
            super()._load_optimizer_and_scheduler(checkpoint)  # type: ignore[misc]
            return
        # On the processor, and read as it is needed: each process takes its part alone
        state = torch.load(Path(checkpoint, OPTIMIZER_NAME), map_location="cpu", mmap=True, weights_only=True)
        parameters = [each for group in self.optimizer.param_groups for each in group["params"]]
        self.optimizer.load_state_dict(divide_optimizer_state(state, parameters))
        self.lr_scheduler.load_state_dict(torch.load(Path(checkpoint, SCHEDULER_NAME), weights_only=True))
