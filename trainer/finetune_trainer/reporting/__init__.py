"""Telling the operator how the run goes, without the run ever waiting for it."""

from finetune_trainer.reporting.reporter import Reporter

__all__ = ["Reporter"]
