"""From a dataset's URIs to normalised examples: fetched, read, mixed, and split."""

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from finetune_api.names import ENV_PREFIX_ADDITIONAL, ENV_PREFIX_DATASET, ENV_PREFIX_EVAL, number_prefix
from finetune_api.spec import AdditionalDatasetSpec, DatasetSpec, EvalDatasetSpec
from finetune_api.spec.objective import Objective
from finetune_trainer.data.faults import Faults, Row, SourceRow
from finetune_trainer.data.fetch import fetch_dataset
from finetune_trainer.data.preferences import unpair
from finetune_trainer.data.reading import compute_digest, read_rows
from finetune_trainer.data.shaping import Shaper
from finetune_trainer.data.split import Ranking, choose_held_out, find_duplicates, repeat_by_weight
from finetune_trainer.data.spool import RowSpool, RowValues, SpooledRows
from finetune_trainer.errors import DataInvalid
from finetune_trainer.storage.credentials import Credentials
from finetune_trainer.storage.digest import combine_digests
from finetune_trainer.storage.retry import RetryPolicy

logger = logging.getLogger(__name__)
_CONTENT: Final = 0
"""Seed of the ranks by which equal rows are found."""


@dataclass(frozen=True, slots=True)
class Part:
    """Examples of one format, from one source."""

    rows: SpooledRows
    format: str
    what: str = "dataset"
    """The source, for messages."""


@dataclass(frozen=True, slots=True)
class Examples:
    """A dataset in TRL's shapes, split, before it is tokenised."""

    train_parts: list[Part]
    eval_parts: list[Part]
    digest: str
    """SHA-256 of the training data as it was read."""
    revision: str | None = None
    """Commit of a hub dataset."""
    duplicates: int = 0
    malformed: int = 0
    read_digest: str | None = None
    """SHA-256 of all data as they were read, held-out ones too; None of rows that were not read from files."""

    @classmethod
    def from_rows(cls, train: list[Row], held: list[Row], format_: str, eval_format: str, digest: str) -> "Examples":
        """Build the examples of one source from rows in TRL's shapes."""

        def build(rows: list[Row], name: str, what: str) -> list[Part]:
            placed = SpooledRows.build(SourceRow(row, f"example {number}") for number, row in enumerate(rows, 1))
            return [Part(placed, name, what)] if rows else []

        return cls(build(train, format_, "dataset"), build(held, eval_format, "evaluation data"), digest)

    @property
    def train(self) -> Sequence[Row]:
        """Rows to train on."""
        return RowValues([part.rows for part in self.train_parts])

    @property
    def eval(self) -> Sequence[Row]:
        """Rows held out."""
        return RowValues([part.rows for part in self.eval_parts])

    @property
    def answers(self) -> Iterator[tuple[str, object]]:
        """Place and answer of each row of the format ``prompt``."""
        return ((row.where, row.value.get("answer")) for part in (*self.train_parts, *self.eval_parts) for row in part.rows)

    @property
    def format(self) -> str:
        """Format of the first source, found out or given."""
        return self.train_parts[0].format


@dataclass(frozen=True, slots=True)
class _Source:
    """Normalised rows of one source."""

    rows: SpooledRows
    ranking: Ranking
    format: str
    digest: str
    revision: str | None


@dataclass(slots=True)
class _Loader:
    """What the sources of one dataset have in common."""

    dataset: DatasetSpec
    objective: Objective
    folder: Path
    environ: Mapping[str, str]
    policy: RetryPolicy | None
    volume_root: str | None
    malformed: int = 0

    def load(
        self, source: DatasetSpec | EvalDatasetSpec | AdditionalDatasetSpec, prefix: str, folder: str, what: str, seeds: set[int]
    ) -> _Source:
        """Read the rows of ``source`` one after the other, and put what becomes of them on the disk.

        :param seeds: what they are ranked by.
        """
        credentials = Credentials.from_environ(prefix, self.environ)
        fetched = fetch_dataset(source, credentials, self.folder / folder, self.policy, self.volume_root)
        own = source if isinstance(source, (DatasetSpec, AdditionalDatasetSpec)) else self.dataset
        tolerated = self.dataset.max_malformed_fraction
        faults, shaper, spool, ranking, read = (
            Faults(),
            Shaper(own.format, self.objective, own.columns),
            RowSpool(self.folder),
            Ranking(*seeds),
            0,
        )
        try:
            for row in read_rows(fetched.files, fetched.root, faults, tolerant=tolerated > 0):
                read += 1
                if (shaped := shaper.shape(row)) is None:
                    continue
                for single in self._take_apart(shaped):
                    spool.add(single)
                    ranking.add(single.value)
            format_, malformed = shaper.finish(faults, tolerated, read)
        except DataInvalid as error:
            if what == "dataset":
                raise
            raise DataInvalid(f"{what}: {error.message}") from None
        rows = spool.finish()
        if not rows:
            raise DataInvalid(f"{what}: no row is left; all {read + faults.count} are malformed")
        self.malformed += malformed
        digest = compute_digest(fetched.files, fetched.root)
        logger.info("%s: %d rows in the format %s, %s", source.uri, len(rows), format_, digest)
        return _Source(rows, ranking, format_, digest, fetched.revision)

    def _take_apart(self, row: SourceRow) -> Iterable[SourceRow]:
        """Return the two labelled answers of a pair where the objective learns from such, else ``row``."""
        if self.objective == "kto" and "chosen" in row.value:
            return (SourceRow(single, row.where) for single in unpair(row.value))
        return (row,)


def load_examples(
    dataset: DatasetSpec,
    seed: int,
    folder: Path,
    environ: Mapping[str, str],
    objective: Objective = "sft",
    policy: RetryPolicy | None = None,
    volume_root: str | None = None,
) -> Examples:
    """Fetch, read, normalise, mix and split a dataset. Needs no tokenizer, so it can be done while the model is fetched.

    The rows lie in files without a name on the disk of ``folder``; memory takes some 40 bytes of each. Killed at any moment, this leaves
    downloads under ``folder``, which the next call goes on with.

    :param seed: what the split and the choice by weight hang on, with the rows' content.
    :param environ: where credentials are read from.
    :raises DataInvalid: see :func:`~finetune_trainer.data.reading.read_rows` and :class:`~finetune_trainer.data.shaping.Shaper`.
    :raises OSError: the disk is full.
    """
    loader = _Loader(dataset, objective, folder, environ, policy, volume_root)
    fraction = dataset.resolved_eval_fraction
    seen = np.empty((0, 2), dtype=np.uint64)
    held_parts: list[Part] = []
    digests: dict[str, str] = {}
    held_digest: dict[str, str] = {}
    train_parts: list[Part] = []
    duplicates = 0
    by_content = {_CONTENT} if dataset.deduplicate else set[int]()
    if dataset.eval is not None:
        held = loader.load(dataset.eval, ENV_PREFIX_EVAL, "eval", "dataset.eval", by_content)
        held_digest["dataset.eval"] = held.digest
        held_parts.append(Part(held.rows, held.format, "evaluation data"))
        if dataset.deduplicate:
            seen = held.ranking.build(_CONTENT)
    revision = None
    sources: list[DatasetSpec | AdditionalDatasetSpec] = [dataset, *dataset.additional]
    for number, source in enumerate(sources):
        prefix = number_prefix(ENV_PREFIX_ADDITIONAL, number - 1) if number else ENV_PREFIX_DATASET
        what = f"dataset.additional[{number - 1}]" if number else "dataset"
        by_seed = {seed} if fraction > 0 or not float(source.weight).is_integer() else set[int]()
        loaded = loader.load(source, prefix, f"train-{number}" if number else "train", what, by_seed | by_content)
        digests[what] = loaded.digest
        revision = revision if number else loaded.revision
        kept = np.arange(len(loaded.rows), dtype=np.int64)
        if dataset.deduplicate:
            contents = loaded.ranking.build(_CONTENT)
            twice = find_duplicates(contents, seen)
            duplicates += int(twice.sum())
            seen, kept = np.concatenate([seen, contents[~twice]]), kept[~twice]
        ranks = loaded.ranking.build(seed)[kept] if by_seed else None
        if ranks is not None:
            held_out = choose_held_out(ranks, fraction)
            if held_out.any():
                held_parts.append(Part(loaded.rows.take(kept[held_out]), loaded.format, "evaluation data"))
            kept, ranks = kept[~held_out], ranks[~held_out]
        if source.weight != 1:
            kept = kept[repeat_by_weight(len(kept), source.weight, ranks)]
        if len(kept):
            train_parts.append(Part(loaded.rows.take(kept), loaded.format, what))
    if not train_parts:
        raise DataInvalid("dataset: every example is equal to one of dataset.eval, so that dataset.deduplicate leaves none to train on")
    if duplicates:
        logger.warning("%d examples left out, since they are equal to another (dataset.deduplicate)", duplicates)
    if fraction > 0 and not held_parts:
        logger.warning("the dataset is too small to hold examples out; there will be no evaluation")
    digest = digests["dataset"] if len(digests) == 1 else combine_digests(digests)
    read_digest = combine_digests({**digests, **held_digest})
    return Examples(train_parts, held_parts, digest, revision, duplicates, loader.malformed, read_digest)
