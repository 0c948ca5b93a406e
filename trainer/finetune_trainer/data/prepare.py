"""The way from a dataset's examples to tokenised rows that TRL's trainers take as they are."""

import logging
import os
import shutil
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from finetune_api.progress import DatasetCounts
from finetune_api.spec import GrpoSpec, MethodSpec, TrainingSpec
from finetune_api.spec.objective import PACKING_OBJECTIVES
from finetune_trainer.data.examples import Examples, Part
from finetune_trainer.data.faults import MAX_FAULTS, SourceRow
from finetune_trainer.data.pairs import check_answers, check_prompts
from finetune_trainer.data.preflight import Tally, check_examples, prove_answers, prove_learnable, render_example
from finetune_trainer.data.prepared import FACTS_FILE, PreparedData, PreparedFacts, read_prepared
from finetune_trainer.data.tables import EVAL_FILE, TRAIN_FILE, Columns, TableWriter
from finetune_trainer.data.tokenizing import IGNORED, ExampleTokenizer
from finetune_trainer.errors import ConfigInvalid, DataInvalid

TooLong = Literal["truncate", "drop", "fail"]
logger = logging.getLogger(__name__)
_BATCH: Final = 256
"""Rows that are in memory as text and as tokens at a time."""


def prepare_data(
    examples: Examples,
    tokenizer: Any,  # noqa: ANN401
    training: TrainingSpec,
    method: MethodSpec | None = None,
    too_long: TooLong = "truncate",
    *,
    folder: Path,
) -> PreparedData:
    """Tokenise ``examples`` as TRL's trainers would, see to what is too long, drop what has nothing to learn, and check the rest: a few at
    a time, from file to file.

    Give the result to ``SFTTrainer`` with ``packing`` and ``max_length`` set as in ``training``: it packs tokenised rows and keeps their
    labels. Only the leaving out of examples with nothing to learn differs from TRL's own preparation: TRL does so without packing and
    without a word, and with packing not at all.

    :param tokenizer: the base model's. Its ``chat_template`` may be set: see :class:`~finetune_trainer.data.tokenizing.ExampleTokenizer`.
    :param folder: where the files are to lie; it is replaced in one step. Killed at any moment, or out of room, this leaves none: what is
        half written has another name, which the next call clears.
    :raises ConfigInvalid: the tokenizer can't render the data.
    :raises DataInvalid: nothing to learn is left, or the end of answers is not learnt, or an example is too long and ``too_long`` is
        `fail`.
    :raises OSError: the disk is full.
    """
    half = folder.with_name(f"{folder.name}.part")
    for leftover in (half, folder):
        shutil.rmtree(leftover, ignore_errors=True)
    half.mkdir(parents=True)
    try:
        facts = _write(half, examples, tokenizer, training, method or MethodSpec(), too_long)
        (half / FACTS_FILE).write_text(facts.model_dump_json(), encoding="utf-8")
        os.replace(half, folder)  # noqa: PTH105  of a folder
    except BaseException:
        shutil.rmtree(half, ignore_errors=True)
        raise
    return read_prepared(folder)


def _write(
    folder: Path,
    examples: Examples,
    tokenizer: Any,  # noqa: ANN401
    training: TrainingSpec,
    method: MethodSpec,
    too_long: TooLong,
) -> PreparedFacts:
    """Write the rows of both sides to ``folder``, and return the rest."""
    sides: list[list[_Side]] = []
    for parts, name in ((examples.train_parts, TRAIN_FILE), (examples.eval_parts, EVAL_FILE)):
        try:
            with TableWriter(folder / name) as table:
                sides.append([_check(part, tokenizer, training, method, too_long, table) for part in parts])
        except DataInvalid as error:
            raise (error if parts is examples.train_parts else DataInvalid(f"{error.message}. Or set dataset.evalFraction to 0")) from None
    train, held = sides
    checked = [side.tally for side in (*train, *held)]
    counts = DatasetCounts(
        examples=sum(each.tally.count for each in train),
        eval_examples=sum(each.tally.count for each in held),
        dropped=sum(each.dropped for each in checked),
        truncated=sum(each.truncated for each in checked),
        duplicates=examples.duplicates,
        malformed=examples.malformed,
    )
    if counts.dropped:
        logger.warning(
            "%d examples left out: too long for training.maxLength (%d), or nothing to learn", counts.dropped, training.max_length
        )
    if counts.truncated:
        logger.warning("%d examples longer than training.maxLength (%d) were cut", counts.truncated, training.max_length)
    sample = _render_sample(train[0].first, tokenizer)
    logger.info(
        "%d examples to train on, %d held out. The first, with what is learnt in ⟦⟧:\n%s", counts.examples, counts.eval_examples, sample
    )
    return PreparedFacts(
        counts=counts,
        digest=examples.digest,
        sample=sample,
        longest=max(each.longest for each in checked),
        fingerprint=uuid.uuid4().hex,
    )


@dataclass(frozen=True, slots=True)
class _Side:
    """What is left of one part."""

    tally: Tally
    first: Columns
    """The first rows that are left."""


def settle_tokenizer(examples: Examples, tokenizer: Any, training: TrainingSpec, method: MethodSpec) -> None:  # noqa: ANN401
    """Do to ``tokenizer`` what :func:`prepare_data` does to it: data that were tokenised before need it as it was then.

    :raises ConfigInvalid: it can't render the data.
    """
    for part in (*examples.train_parts, *examples.eval_parts):
        _open_tokenizer(part, tokenizer, training, method)


def _open_tokenizer(part: Part, tokenizer: Any, training: TrainingSpec, method: MethodSpec) -> ExampleTokenizer:  # noqa: ANN401
    """Settle the chat template, or refuse."""
    answers = method.objective not in PACKING_OBJECTIVES and method.objective != "grpo"
    learns_completions = method.objective in PACKING_OBJECTIVES and training.loss_on == "completion" and method.objective != "pretrain"
    return ExampleTokenizer(tokenizer, part.rows[0].value, part.format, completion_only=answers or learns_completions)


def _check(
    part: Part,
    tokenizer: Any,  # noqa: ANN401
    training: TrainingSpec,
    method: MethodSpec,
    too_long: TooLong,
    table: TableWriter,
) -> _Side:
    """Append to ``table`` what is left of ``part``."""
    tokenise = _open_tokenizer(part, tokenizer, training, method)
    tally, first = Tally(), Columns()
    for begin in range(0, len(part.rows), _BATCH):
        checked, columns = _check_batch(
            part.rows[begin : begin + _BATCH], tokenizer, tokenise, training, method, drop_long=too_long == "drop"
        )
        tally.extend(checked)
        table.append(columns)
        first = first if any(first.values()) else columns
    _refuse_long(tally.long, training, part.what, too_long)
    if method.objective in PACKING_OBJECTIVES:
        prove_learnable(tally, training.max_length, part.what)
    elif method.objective != "grpo":
        prove_answers(tally, training.max_length, part.what)
    elif not tally.count:
        raise DataInvalid(
            f"{part.what}: no prompt leaves room for an answer of method.grpo.maxCompletionLength within training.maxLength "
            f"({training.max_length}); raise training.maxLength"
        )
    return _Side(tally, first)


def _check_batch(
    rows: list[SourceRow],
    tokenizer: Any,  # noqa: ANN401
    tokenise: ExampleTokenizer,
    training: TrainingSpec,
    method: MethodSpec,
    *,
    drop_long: bool,
) -> tuple[Tally, Columns]:
    if method.objective == "grpo":
        prompts = check_prompts(rows, tokenizer, training.max_length, (method.grpo or _no_grpo()).max_completion_length)
        return prompts, prompts.columns
    if method.objective in PACKING_OBJECTIVES:
        examples = tokenise.tokenise([row.value for row in rows])
        checked = check_examples(examples, training.max_length, tokenise.stop_ids, [row.where for row in rows], drop_long=drop_long)
        return checked, {"input_ids": checked.input_ids, "labels": checked.labels}
    answers = check_answers(rows, method.objective, tokenise, training.max_length, drop_long=drop_long)
    return answers, answers.columns


def _no_grpo() -> GrpoSpec:
    raise ConfigInvalid("method.grpo must be given for the objective grpo: name reward functions in grpo.rewards")


def _refuse_long(places: list[str], training: TrainingSpec, what: str, too_long: TooLong) -> None:
    if places and too_long == "fail":
        raise DataInvalid(
            f"{what}: examples are longer than training.maxLength ({training.max_length} tokens), and dataset.tooLong is fail: "
            f"{', '.join(places)}{', …' if len(places) == MAX_FAULTS else ''}"
        )


def _render_sample(columns: Columns, tokenizer: Any) -> str:  # noqa: ANN401
    def decode(ids: list[int]) -> str:
        return str(tokenizer.decode(ids))

    if "labels" in columns:
        return render_example(columns["input_ids"][0], columns["labels"][0], decode)
    if "prompt" in columns:
        return str(columns["prompt"][0])
    prompt = columns["prompt_ids"][0] if "prompt_ids" in columns else []
    name = "chosen_ids" if "chosen_ids" in columns else "completion_ids"
    answer = columns[name][0]
    text = render_example([*prompt, *answer], [IGNORED] * len(prompt) + list(answer), decode)
    if "label" in columns:
        return f"{text}\n({'good' if columns['label'][0] else 'bad'})"
    return f"{text}\nrather than\n{decode(list(columns['rejected_ids'][0]))}"
