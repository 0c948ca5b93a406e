"""Data: fetched, read, normalised, split, tokenised, and proven to be learnable."""

from finetune_trainer.data.prepare import Examples, PreparedData, load_examples, prepare_data

__all__ = ["Examples", "PreparedData", "load_examples", "prepare_data"]
