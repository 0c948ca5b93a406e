"""The way from a dataset's URI to tokenised rows that ``SFTTrainer`` takes as they are."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune_api.progress import DatasetCounts
from finetune_api.spec import DatasetSpec, EvalDatasetSpec, TrainingSpec
from finetune_trainer.data.fetch import fetch_dataset
from finetune_trainer.data.preflight import Checked, check_examples, prove_learnable, render_example
from finetune_trainer.data.reading import load_rows
from finetune_trainer.data.shapes import Row, choose_format, normalise
from finetune_trainer.data.split import split_examples
from finetune_trainer.data.tokenizing import ExampleTokenizer, Tokenised
from finetune_trainer.errors import DataInvalid
from finetune_trainer.storage.credentials import Credentials
from finetune_trainer.storage.retry import RetryPolicy

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Examples:
    """A dataset in TRL's shapes, split, before it is tokenised."""

    train: list[Row]
    eval: list[Row]
    format: str
    """Format of the training data, found out or given."""
    eval_format: str
    digest: str
    """SHA-256 of the training data as it was read."""
    revision: str | None = None
    """Commit of a hub dataset."""


@dataclass(frozen=True, slots=True)
class PreparedData:
    """A dataset ready to train on."""

    train: Any
    """``datasets.Dataset`` of ``input_ids`` and ``labels`` (lists of int, at most ``maxLength`` long; -100 is not learnt). Not packed."""
    eval: Any | None
    """The same, held out; None where evaluation is off."""
    counts: DatasetCounts
    digest: str
    """SHA-256 of the training data as it was read."""
    sample: str
    """One example as text, what is learnt between ``⟦`` and ``⟧``, for the log."""


def load_examples(
    dataset: DatasetSpec,
    seed: int,
    folder: Path,
    credentials: Credentials,
    eval_credentials: Credentials | None = None,
    policy: RetryPolicy | None = None,
    volume_root: str | None = None,
) -> Examples:
    """Fetch, read, normalise and split a dataset. Needs no tokenizer, so it can be done while the model is fetched.

    Killed at any moment, this leaves downloads under ``folder``, which the next call goes on with.

    :param seed: what the split hangs on, with the rows' content.
    :raises DataInvalid: see :func:`~finetune_trainer.data.reading.load_rows` and :func:`~finetune_trainer.data.shapes.normalise`.
    """
    rows, format_, digest, revision = _load(dataset, dataset, folder / "train", credentials, policy, volume_root)
    if dataset.eval is not None:
        held, eval_format, _, _ = _load(dataset.eval, dataset, folder / "eval", eval_credentials or Credentials(), policy, volume_root)
        return Examples(rows, held, format_, eval_format, digest, revision)
    train, held = split_examples(rows, dataset.resolved_eval_fraction, seed)
    if dataset.resolved_eval_fraction > 0 and not held:
        logger.warning("the dataset is too small to hold examples out; there will be no evaluation")
    return Examples(train, held, format_, format_, digest, revision)


def _load(
    source: DatasetSpec | EvalDatasetSpec,
    dataset: DatasetSpec,
    folder: Path,
    credentials: Credentials,
    policy: RetryPolicy | None,
    volume_root: str | None,
) -> tuple[list[Row], str, str, str | None]:
    fetched = fetch_dataset(source, credentials, folder, policy, volume_root)
    loaded = load_rows(fetched.files, fetched.root)
    format_ = choose_format(loaded.rows, dataset.format)
    rows = normalise(loaded.rows, format_)
    logger.info("%s: %d rows in the format %s, %s", source.uri, len(rows), format_, loaded.digest)
    return rows, format_, loaded.digest, fetched.revision


def prepare_data(examples: Examples, tokenizer: Any, training: TrainingSpec) -> PreparedData:  # noqa: ANN401
    """Tokenise ``examples`` as ``SFTTrainer`` would, truncate, drop what has nothing to learn, and check the rest.

    Give the result to ``SFTTrainer`` with ``packing`` and ``max_length`` set as in ``training``: it packs tokenised rows and keeps their
    labels. Only the leaving out of examples with nothing to learn differs from TRL's own preparation: TRL does so without packing and
    without a word, and with packing not at all.

    :param tokenizer: the base model's. Its ``chat_template`` may be set: see :class:`~finetune_trainer.data.tokenizing.ExampleTokenizer`.
    :raises ConfigInvalid: the tokenizer can't render the data.
    :raises DataInvalid: nothing to learn is left, or the end of answers is not learnt.
    """
    train = _check(examples.train, examples.format, tokenizer, training, "dataset")
    counts = DatasetCounts(examples=len(train.input_ids), dropped=train.dropped, truncated=train.truncated)
    held = None
    if examples.eval:
        try:
            held = _check(examples.eval, examples.eval_format, tokenizer, training, "evaluation data")
        except DataInvalid as error:
            raise DataInvalid(f"{error.message}. Or set dataset.evalFraction to 0") from None
        counts = DatasetCounts(
            examples=counts.examples,
            eval_examples=len(held.input_ids),
            dropped=counts.dropped + held.dropped,
            truncated=counts.truncated + held.truncated,
        )
    if counts.dropped:
        logger.warning("%d examples left out: their answers begin after training.maxLength (%d)", counts.dropped, training.max_length)
    if counts.truncated:
        logger.warning("%d examples are longer than training.maxLength (%d) and were cut", counts.truncated, training.max_length)
    sample = render_example(train.input_ids[0], train.labels[0], lambda ids: str(tokenizer.decode(ids)))
    logger.info(
        "%d examples to train on, %d held out. The first, with what is learnt in ⟦⟧:\n%s", counts.examples, counts.eval_examples, sample
    )
    return PreparedData(_to_dataset(train), _to_dataset(held) if held else None, counts, examples.digest, sample)


def _check(rows: list[Row], format_: str, tokenizer: Any, training: TrainingSpec, what: str) -> Checked:  # noqa: ANN401
    tokenise = ExampleTokenizer(tokenizer, rows[0], format_, completion_only=training.loss_on == "completion")
    tokenised: Iterator[Tokenised] = tokenise.tokenise(rows)
    checked = check_examples(tokenised, training.max_length, tokenise.stop_ids)
    prove_learnable(checked, training.max_length, what)
    return checked


def _to_dataset(checked: Checked) -> Any:  # noqa: ANN401
    import pyarrow as pa  # noqa: PLC0415  these take seconds to import; the caller has loaded them by now
    from datasets import Dataset  # noqa: PLC0415
    from datasets.table import InMemoryTable  # noqa: PLC0415

    kind = pa.list_(pa.int32())
    table = pa.table({"input_ids": pa.array(checked.input_ids, kind), "labels": pa.array(checked.labels, kind)})
    return Dataset(InMemoryTable(table))
