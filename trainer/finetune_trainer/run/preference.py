"""The trainers of the objectives that compare answers: TRL's own, given rows that are tokenised and checked already."""

from typing import Any, Final

from trl.experimental.orpo import ORPOTrainer
from trl.trainer.dpo_trainer import DPOTrainer
from trl.trainer.kto_trainer import KTOTrainer
from trl.trainer.reward_trainer import RewardTrainer

from finetune_trainer.run.adapting import AdapterHooks
from finetune_trainer.run.loop import RunLoop

_ROWS: Final = 1000
"""Rows that are in memory at a time."""


class _Prepared:
    """Leaves the data as they are: :mod:`finetune_trainer.data.pairs` has prepared them."""

    def _prepare_dataset(self, dataset: Any, *args: Any) -> Any:  # noqa: ANN401
        del args
        return dataset


class _AdapterOff:
    """Takes the base model with its adapter off for the reference. TRL would copy the fresh adapter instead: more memory for the same
    numbers, since a fresh adapter adds nothing.
    """

    model: Any

    def __init__(self, **options: Any) -> None:  # noqa: ANN401
        super().__init__(**options)
        if "ref" in self.model.peft_config:
            self.model.delete_adapter("ref")


class RunDpoTrainer(_AdapterOff, _Prepared, RunLoop, AdapterHooks, DPOTrainer):
    """``DPOTrainer`` for one run."""


class RunRewardTrainer(_Prepared, RunLoop, AdapterHooks, RewardTrainer):
    """``RewardTrainer`` for one run."""


class RunKtoTrainer(_AdapterOff, RunLoop, AdapterHooks, KTOTrainer):
    """``KTOTrainer`` for one run."""

    def _prepare_dataset(self, dataset: Any, processing_class: Any, args: Any, dataset_name: str) -> Any:  # noqa: ANN401
        """Give each example the answer of its neighbour in the batch, from which TRL estimates the divergence from the reference.

        The order is fixed here, by the seed: TRL takes the rows one after the other, lest the neighbours change.
        """
        del processing_class
        shuffled = dataset.shuffle(seed=args.seed) if dataset_name == "train" else dataset
        size = args.per_device_train_batch_size
        return shuffled.map(_add_neighbours, batched=True, batch_size=size * max(1, _ROWS // size), fn_kwargs={"size": size})


def _add_neighbours(columns: dict[str, list[Any]], size: int) -> dict[str, list[Any]]:
    answers = columns["completion_ids"]
    neighbours: list[list[int]] = []
    for begin in range(0, len(answers), size):
        batch = answers[begin : begin + size]
        neighbours += [batch[-1], *batch[:-1]]
    return {"KL_completion_ids": neighbours}


class RunOrpoTrainer(RunLoop, AdapterHooks, ORPOTrainer):
    """``ORPOTrainer`` for one run."""

    def __init__(self, **options: Any) -> None:  # noqa: ANN401
        self._total_train_tokens = 0
        super().__init__(**options)

    def tokenize_row(self, feature: dict[str, list[int]], *args: Any) -> dict[str, list[int]]:  # noqa: ANN401
        """Return the columns that TRL makes of a row of text."""
        del args
        prompt = feature["prompt_ids"]
        row = {"prompt_input_ids": prompt, "prompt_attention_mask": [1] * len(prompt)}
        for name in ("chosen", "rejected"):
            ids = prompt + feature[f"{name}_ids"]
            row[f"{name}_input_ids"] = ids
            row[f"{name}_attention_mask"] = [1] * len(ids)
            row[f"{name}_labels"] = [-100] * len(prompt) + feature[f"{name}_ids"]
        return row

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **options: Any) -> Any:  # noqa: ANN401
        """Count the tokens beside TRL's loss."""
        loss: Any = super().compute_loss(model, inputs, *args, **options)
        if self.model.training:
            tokens = inputs["chosen_attention_mask"].sum() + inputs["rejected_attention_mask"].sum()
            self._total_train_tokens += int(self.accelerator.gather_for_metrics(tokens).sum())
        return loss

    def log(self, logs: dict[str, float], *args: Any) -> None:  # noqa: ANN401
        """Log the tokens too."""
        if "loss" in logs:
            logs["num_tokens"] = self._total_train_tokens
        super().log(logs, *args)
