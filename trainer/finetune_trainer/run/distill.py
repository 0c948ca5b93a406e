"""The trainer of the objective that learns a teacher's probabilities."""

from typing import Any

import torch
from trl.experimental.gkd import GKDTrainer
from trl.trainer.sft_trainer import SFTTrainer

from finetune_trainer.run.adapting import AdapterHooks
from finetune_trainer.run.loop import RunLoop
from finetune_trainer.run.trainer import TokenMean


class _TeacherTrainer(SFTTrainer):
    """Learns a teacher's probabilities instead of the data's tokens; all else is as in fine-tuning, packing too.

    :param teacher: the frozen teacher, on the same device.
    :param beta: see :class:`finetune_api.spec.DistillSpec`.
    """

    def __init__(self, *, teacher: Any, beta: float, temperature: float, **options: Any) -> None:  # noqa: ANN401
        super().__init__(**options)
        self._teacher = self.accelerator.prepare_model(teacher, evaluation_mode=True)
        self._beta = beta
        self._temperature = temperature

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None) -> Any:  # noqa: ANN401, FBT001, FBT002
        """Return TRL's generalised Jensen-Shannon divergence of student and teacher, as a mean over the step's learnt tokens."""
        if return_outputs:
            raise NotImplementedError("the logits are not kept")
        mode = "train" if model.training else "eval"
        labels = inputs["labels"][:, 1:]
        options = {name: value for name, value in inputs.items() if name != "labels"} | {"use_cache": False}
        # Prompt tuning and P-tuning put virtual tokens before the text's, with logits of their own, which no teacher has.
        student = model(**options).logits[:, -inputs["labels"].size(1) : -1, :]
        with torch.no_grad():
            teacher = self._teacher(**options).logits[:, :-1, :].to(student.dtype)
        loss = GKDTrainer.generalized_jsd_loss(  # type: ignore[no-untyped-call]
            student.float(), teacher.float(), labels, self._beta, self._temperature, num_items_in_batch=num_items_in_batch
        )
        if num_items_in_batch is not None and self.args.average_tokens_across_devices:
            loss = loss * self.accelerator.num_processes  # the count is over all of them, and their gradients are averaged
        if mode == "train":
            tokens = inputs["attention_mask"].sum() if "attention_mask" in inputs else torch.tensor(inputs["position_ids"].size(1))
            self._total_train_tokens += int(self.accelerator.gather_for_metrics(tokens).sum())
        self._metrics[mode]["num_tokens"] = [self._total_train_tokens]
        return loss


class DistillTrainer(TokenMean, RunLoop, AdapterHooks, _TeacherTrainer):
    """Distillation for one run."""
