"""The trainer of the objective that learns from rewards for the model's own answers."""

from typing import Any

from trl.trainer.grpo_trainer import GRPOTrainer

from finetune_trainer.run.adapting import AdapterHooks
from finetune_trainer.run.loop import RunLoop


class RunGrpoTrainer(RunLoop, AdapterHooks, GRPOTrainer):
    """``GRPOTrainer`` for one run."""

    def __init__(self, **options: Any) -> None:  # noqa: ANN401
        super().__init__(**options)
        if "ref" in self.model.peft_config:  # the base with its adapter off is the same, and takes no memory
            self.model.delete_adapter("ref")

    @property
    def tokens_seen(self) -> int:
        """Tokens of prompts and answers so far."""
        return int(self.state.num_input_tokens_seen)

    @tokens_seen.setter
    def tokens_seen(self, tokens: int) -> None:
        self.state.num_input_tokens_seen = tokens
