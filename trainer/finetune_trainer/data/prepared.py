"""A dataset that is ready to train on, as files of one folder."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from finetune_api.base import StoredModel
from finetune_api.progress import DatasetCounts
from finetune_trainer.data.tables import EVAL_FILE, TRAIN_FILE, map_table

FACTS_FILE: Final = "facts.json"


class PreparedFacts(StoredModel):
    """What is known of prepared data besides their rows."""

    counts: DatasetCounts
    digest: str
    sample: str
    longest: int
    fingerprint: str = ""
    """Of this copy: what the processes of a pod make of the rows, they share by it."""


@dataclass(frozen=True, slots=True)
class PreparedData:
    """A dataset ready to train on."""

    train: Any
    """``datasets.Dataset`` of ``input_ids`` and ``labels`` (lists of int, at most ``maxLength`` long; -100 is not learnt), not packed; or
    of the columns that :mod:`finetune_trainer.data.pairs` names. Mapped from a file."""
    eval: Any | None
    """The same, held out; None where evaluation is off."""
    counts: DatasetCounts
    digest: str
    """SHA-256 of the training data as it was read."""
    sample: str
    """One example as text, what is learnt between ``⟦`` and ``⟧``, for the log."""
    longest: int
    """Tokens of the longest example."""
    folder: Path
    """Where the files lie."""


def read_prepared(folder: Path) -> PreparedData:
    """Map the data in ``folder``; its files' digests must have been verified, or the writer be this pod's.

    :raises ValueError: it is something else.
    """
    facts = PreparedFacts.model_validate_json((folder / FACTS_FILE).read_text(encoding="utf-8"))
    held = folder / EVAL_FILE
    return PreparedData(
        map_table(folder / TRAIN_FILE, facts.fingerprint),
        map_table(held, f"{facts.fingerprint}-eval") if held.exists() else None,
        facts.counts,
        facts.digest,
        facts.sample,
        facts.longest,
        folder,
    )
