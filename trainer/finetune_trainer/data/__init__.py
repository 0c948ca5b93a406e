"""Data: fetched, read, normalised, split, tokenised, and proven to be learnable."""

from finetune_trainer.data.examples import Examples, load_examples
from finetune_trainer.data.prepare import PreparedData, prepare_data

__all__ = ["Examples", "PreparedData", "load_examples", "prepare_data"]
