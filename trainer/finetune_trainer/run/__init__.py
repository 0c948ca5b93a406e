"""One run: config -> data -> model -> train -> publish."""

from finetune_trainer.run.run import Run

__all__ = ["Run"]
