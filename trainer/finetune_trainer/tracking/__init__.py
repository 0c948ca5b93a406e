"""Trackers: where a run's figures go besides status. One that fails is named in the log, and training goes on."""

from finetune_trainer.tracking.feed import TrackerFeed
from finetune_trainer.tracking.opening import open_trackers
from finetune_trainer.tracking.tracker import Outcome, RunInfo, Tracker

__all__ = ["Outcome", "RunInfo", "Tracker", "TrackerFeed", "open_trackers"]
