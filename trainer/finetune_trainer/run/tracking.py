"""The trackers of a run, all at once."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from finetune_api.artifact import Artifact
from finetune_api.trainer_config import TrainerConfig
from finetune_trainer.documents.report_page import flatten
from finetune_trainer.storage import Store
from finetune_trainer.tracking import Outcome, TrackerFeed, open_trackers

TRACKED: Final = ("loss", "learning_rate", "grad_norm", "eval_loss", "tokens_per_second", "memory_bytes")
"""Figures of the trainer's log that a run that goes on hands over once more."""
_WAIT_SECONDS: Final[dict[Outcome, float]] = {"completed": 120.0, "failed": 20.0, "interrupted": 5.0}
"""Longest wait for the last figures to be sent, by how the run ended. In the grace period the checkpoint matters more."""


class RunTracking:
    """Feeds every tracker that the specification names. Nothing here raises, and only :meth:`close` waits."""

    def __init__(self, config: TrainerConfig, output: Store, folder: Path, environ: Mapping[str, str]) -> None:
        self._feeds: list[TrackerFeed] = []
        if config.tracking and environ.get("RANK", "0") == "0":
            settings = dict(flatten(config.model_dump(mode="json", exclude_none=True)))
            self._feeds = [TrackerFeed(tracker) for tracker in open_trackers(config, settings, output, folder, environ)]

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Hand the figures of a step to each tracker."""
        for feed in self._feeds:
            feed.log(step, values)

    def close(self, outcome: Outcome, artifacts: Sequence[Artifact] = ()) -> None:
        """Say how the run ended and what came out; waits for the last figures, but not long."""
        notes = {f"{number}-{artifact.name}": f"{artifact.uri} {artifact.digest}" for number, artifact in enumerate(artifacts)}
        for feed in self._feeds:
            feed.close(outcome, notes, _WAIT_SECONDS[outcome])
        self._feeds = []
