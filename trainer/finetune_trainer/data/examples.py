"""From a dataset's URIs to normalised examples: fetched, read, mixed, and split."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from finetune_api.names import ENV_PREFIX_ADDITIONAL, ENV_PREFIX_DATASET, ENV_PREFIX_EVAL, number_prefix
from finetune_api.spec import AdditionalDatasetSpec, DatasetSpec, EvalDatasetSpec
from finetune_api.spec.objective import Objective
from finetune_api.spec.source import DatasetFormat
from finetune_trainer.data.faults import Faults, Row, SourceRow
from finetune_trainer.data.fetch import fetch_dataset
from finetune_trainer.data.preferences import unpair
from finetune_trainer.data.reading import load_rows
from finetune_trainer.data.shapes import choose_format, normalise_placed, rename_columns
from finetune_trainer.data.split import choose_held_out, find_duplicates, repeat_by_weight
from finetune_trainer.errors import DataInvalid
from finetune_trainer.storage.credentials import Credentials
from finetune_trainer.storage.digest import combine_digests
from finetune_trainer.storage.retry import RetryPolicy

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Part:
    """Examples of one format, from one source."""

    rows: list[SourceRow]
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

    @classmethod
    def from_rows(cls, train: list[Row], held: list[Row], format_: str, eval_format: str, digest: str) -> "Examples":
        """Build the examples of one source from rows in TRL's shapes."""

        def build(rows: list[Row], name: str, what: str) -> list[Part]:
            placed = [SourceRow(row, f"example {number}") for number, row in enumerate(rows, 1)]
            return [Part(placed, name, what)] if rows else []

        return cls(build(train, format_, "dataset"), build(held, eval_format, "evaluation data"), digest)

    @property
    def train(self) -> list[Row]:
        """Rows to train on."""
        return [row.value for part in self.train_parts for row in part.rows]

    @property
    def eval(self) -> list[Row]:
        """Rows held out."""
        return [row.value for part in self.eval_parts for row in part.rows]

    @property
    def answers(self) -> list[tuple[str, object]]:
        """Place and answer of each row of the format ``prompt``."""
        return [(row.where, row.value.get("answer")) for part in (*self.train_parts, *self.eval_parts) for row in part.rows]

    @property
    def format(self) -> str:
        """Format of the first source, found out or given."""
        return self.train_parts[0].format


@dataclass(slots=True)
class _Loader:
    """What the sources of one dataset have in common."""

    dataset: DatasetSpec
    seed: int
    objective: Objective
    folder: Path
    environ: Mapping[str, str]
    policy: RetryPolicy | None
    volume_root: str | None
    faults: Faults = field(default_factory=Faults)
    rows_read: int = 0
    revision: str | None = None
    """Commit of the source read last."""

    def load(
        self, source: DatasetSpec | EvalDatasetSpec | AdditionalDatasetSpec, prefix: str, folder: str, what: str
    ) -> tuple[list[SourceRow], str, str]:
        """Return the normalised rows of ``source``, their format and their digest."""
        credentials = Credentials.from_environ(prefix, self.environ)
        fetched = fetch_dataset(source, credentials, self.folder / folder, self.policy, self.volume_root)
        tolerant = self.dataset.max_malformed_fraction > 0
        own = source if isinstance(source, (DatasetSpec, AdditionalDatasetSpec)) else self.dataset
        wanted: DatasetFormat = own.format
        faults = Faults()
        try:
            loaded = load_rows(fetched.files, fetched.root, faults if tolerant else None)
            read = len(loaded.rows) + faults.count
            renamed = rename_columns(loaded.rows, own.columns)
            format_, rows = choose_format(renamed, wanted, self.objective, faults if tolerant else None)
            rows = normalise_placed(rows, format_, faults if tolerant else None)
            faults.raise_if_above(self.dataset.max_malformed_fraction, read)
        except DataInvalid as error:
            if what == "dataset":
                raise
            raise DataInvalid(f"{what}: {error.message}") from None
        if not rows:
            raise DataInvalid(f"{what}: no row is left; all {read} are malformed")
        self.faults.count += faults.count
        self.rows_read += read
        self.revision = fetched.revision
        if self.objective == "kto" and format_ == "preference":
            rows = [SourceRow(single, row.where) for row in rows for single in unpair(row.value)]
        logger.info("%s: %d rows in the format %s, %s", source.uri, len(rows), format_, loaded.digest)
        return rows, format_, loaded.digest


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

    Killed at any moment, this leaves downloads under ``folder``, which the next call goes on with.

    :param seed: what the split and the choice by weight hang on, with the rows' content.
    :param environ: where credentials are read from.
    :raises DataInvalid: see :func:`~finetune_trainer.data.reading.load_rows` and :func:`~finetune_trainer.data.shapes.normalise`.
    """
    loader = _Loader(dataset, seed, objective, folder, environ, policy, volume_root)
    seen: set[bytes] = set()
    held_parts: list[Part] = []
    digests: dict[str, str] = {}
    train_parts: list[Part] = []
    duplicates = 0
    if dataset.eval is not None:
        held, eval_format, _ = loader.load(dataset.eval, ENV_PREFIX_EVAL, "eval", "dataset.eval")
        held_parts.append(Part(held, eval_format, "evaluation data"))
        if dataset.deduplicate:
            find_duplicates([row.value for row in held], seen)
    revision = None
    sources: list[DatasetSpec | AdditionalDatasetSpec] = [dataset, *dataset.additional]
    for number, source in enumerate(sources):
        prefix = number_prefix(ENV_PREFIX_ADDITIONAL, number - 1) if number else ENV_PREFIX_DATASET
        what = f"dataset.additional[{number - 1}]" if number else "dataset"
        rows, format_, digests[what] = loader.load(source, prefix, f"train-{number}" if number else "train", what)
        revision = revision if number else loader.revision
        if dataset.deduplicate:
            twice = find_duplicates([row.value for row in rows], seen)
            duplicates += len(twice)
            rows = [row for index, row in enumerate(rows) if index not in twice]
        values = [row.value for row in rows]
        held_out = choose_held_out(values, dataset.resolved_eval_fraction, seed)
        if held_out:
            held_parts.append(Part([rows[index] for index in sorted(held_out)], format_, "evaluation data"))
        kept = [row for index, row in enumerate(rows) if index not in held_out]
        kept = [kept[index] for index in repeat_by_weight([row.value for row in kept], source.weight, seed)] if source.weight != 1 else kept
        if kept:
            train_parts.append(Part(kept, format_, what))
    if not train_parts:
        raise DataInvalid("dataset: every example is equal to one of dataset.eval, so that dataset.deduplicate leaves none to train on")
    if duplicates:
        logger.warning("%d examples left out, since they are equal to another (dataset.deduplicate)", duplicates)
    if dataset.resolved_eval_fraction > 0 and not held_parts:
        logger.warning("the dataset is too small to hold examples out; there will be no evaluation")
    digest = digests["dataset"] if len(digests) == 1 else combine_digests(digests)
    return Examples(train_parts, held_parts, digest, revision, duplicates, loader.faults.count)
