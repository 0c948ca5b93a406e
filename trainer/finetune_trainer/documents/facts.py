"""All that documents are made from."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from finetune_api.progress import DatasetCounts, Metrics
from finetune_api.trainer_config import TrainerConfig
from finetune_trainer.evaluation.results import Evaluation


@dataclass(frozen=True, slots=True)
class RunFacts:
    """A run that has ended, as its documents tell of it."""

    config: TrainerConfig
    metrics: Metrics
    dataset: DatasetCounts
    history: Sequence[Mapping[str, Any]]
    """The trainer's log: an entry for each logged step and each evaluation."""
    evaluation: Evaluation
    versions: Mapping[str, str]
    device: str
    now: datetime
    base_revision: str | None = None
    """Commit that the base model's revision resolved to."""
    base_license: str | None = None
    """Licence of the base model, as its own card names it."""
    steps: int = 0
    """Optimizer steps done."""
    sources: Mapping[str, str | None] = field(default_factory=dict)
    """Digests of base model and data, by name."""


def extract_series(history: Iterable[Mapping[str, Any]], name: str) -> list[tuple[float, float]]:
    """Return step and value of each entry of ``history`` that has a finite ``name``, in the order of steps, the newest of each step."""
    found: dict[float, float] = {}
    for entry in history:
        step, value = entry.get("step"), entry.get(name)
        if isinstance(step, (int, float)) and isinstance(value, (int, float)) and abs(float(value)) < float("inf"):
            found[float(step)] = float(value)
    return sorted(found.items())
