"""Data: fetched, read, normalised, split, tokenised, and proven to be learnable."""

from finetune_trainer.data.examples import Examples, load_examples
from finetune_trainer.data.prepare import prepare_data
from finetune_trainer.data.prepared import PreparedData

__all__ = ["Examples", "PreparedData", "load_examples", "prepare_data"]
