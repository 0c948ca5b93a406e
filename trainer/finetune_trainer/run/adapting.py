"""What the adapter asks of a training loop: its own part of the loss, its learning rates, its ranks, its checkpoints."""

from pathlib import Path
from typing import Any

import torch
from peft.optimizers import create_loraplus_optimizer
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from finetune_trainer.model.adapted import AdaptedModel


class AdapterHooks:
    """Mixed into one of TRL's trainers, before it: the trainer of any objective then trains any adapter.

    :param adapted: the model, whose PEFT model (or plain model) is trained.
    """

    def __init__(self, *, adapted: AdaptedModel, **options: Any) -> None:  # noqa: ANN401
        self.adapted = adapted
        super().__init__(model=adapted.model, **options)  # type: ignore[call-arg]  # the trainer that this is mixed into
        adapted.keep_small_steps()
        self.add_callback(_AdapterCallback(adapted))  # type: ignore[attr-defined]

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **options: Any) -> Any:  # noqa: ANN401
        """Return the objective's loss, and in training what the adapter adds to it."""
        loss = super().compute_loss(model, inputs, *args, **options)  # type: ignore[misc]
        extra = self.adapted.compute_extra_loss() if self.adapted.model.training else None
        if extra is None:
            return loss
        # Where tokens are counted over the whole step, the library leaves the division by its micro-batches to the loss.
        counted = options.get("num_items_in_batch", args[1] if len(args) > 1 else None) is not None
        extra = extra / (self.current_gradient_accumulation_steps if counted else 1)  # type: ignore[attr-defined]
        return (loss[0] + extra, *loss[1:]) if isinstance(loss, tuple) else loss + extra

    def create_optimizer(self, *args: Any, **options: Any) -> Any:  # noqa: ANN401
        """Build the optimizer; with LoRA+, the second matrices get a rate of their own."""
        ratio = self.adapted.spec.lora_plus_ratio
        if ratio is None or getattr(self, "optimizer", None) is not None:
            return super().create_optimizer(*args, **options)  # type: ignore[misc]
        settings = self.args  # type: ignore[attr-defined]
        kind, values = Trainer.get_optimizer_cls_and_kwargs(settings, self.adapted.model)
        values = {name: value for name, value in values.items() if name != "lr"}
        optimizer = create_loraplus_optimizer(
            self.adapted.model,
            kind,
            lr=settings.learning_rate,
            loraplus_lr_ratio=ratio,
            loraplus_weight_decay=settings.weight_decay,
            **values,
        )
        optimizer.param_groups[:] = [group for group in optimizer.param_groups if group["params"]]
        setattr(self, "optimizer", optimizer)  # noqa: B010  an attribute of the trainer that this is mixed into
        return optimizer

    def evaluate(self, *args: Any, **options: Any) -> dict[str, float]:  # noqa: ANN401
        """Measure the held-out loss: before the first step, that of the base model."""
        if self.state.global_step == 0:  # type: ignore[attr-defined]
            with self.adapted.as_base():
                return dict(super().evaluate(*args, **options))  # type: ignore[misc]
        return dict(super().evaluate(*args, **options))  # type: ignore[misc]

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        """Save what is trained, alone: the tokenizer is the base model's, and the settings are in the manifest instead of in a pickle."""
        del state_dict
        self.adapted.save(Path(output_dir or self.args.output_dir or ""), writes=self.group.leads)  # type: ignore[attr-defined]

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any | None = None) -> None:  # noqa: ANN401
        """Copy the trained tensors into place. PEFT's own loading would lift them to 32 bits, and the run would go on as another one."""
        del model
        self.adapted.load(Path(resume_from_checkpoint))


class _AdapterCallback(TrainerCallback):
    """Tells the adapter how far the run is."""

    def __init__(self, adapted: AdaptedModel) -> None:
        self._adapted = adapted

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **others: Any) -> None:  # noqa: ANN401
        del args, control, others
        self._adapted.begin(state.max_steps)

    @torch.no_grad()
    def on_optimizer_step(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **others: Any) -> None:  # noqa: ANN401
        """The weights have changed, their gradients are still there; the step is counted after this."""
        del args, control, others
        self._adapted.end_step(state.global_step + 1)
