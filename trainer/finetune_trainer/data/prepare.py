"""The way from a dataset's examples to tokenised rows that TRL's trainers take as they are."""

import logging
from dataclasses import dataclass
from typing import Any, Literal

from finetune_api.progress import DatasetCounts
from finetune_api.spec import GrpoSpec, MethodSpec, TrainingSpec
from finetune_api.spec.objective import PACKING_OBJECTIVES
from finetune_trainer.data.examples import Examples, Part
from finetune_trainer.data.faults import MAX_FAULTS
from finetune_trainer.data.pairs import Columns, check_answers, check_prompts
from finetune_trainer.data.preflight import check_examples, prove_answers, prove_learnable, render_example
from finetune_trainer.data.tokenizing import IGNORED, ExampleTokenizer
from finetune_trainer.errors import ConfigInvalid, DataInvalid

TooLong = Literal["truncate", "drop", "fail"]
logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class PreparedData:
    """A dataset ready to train on."""

    train: Any
    """``datasets.Dataset`` of ``input_ids`` and ``labels`` (lists of int, at most ``maxLength`` long; -100 is not learnt), not packed; or
    of the columns that :mod:`finetune_trainer.data.pairs` names."""
    eval: Any | None
    """The same, held out; None where evaluation is off."""
    counts: DatasetCounts
    digest: str
    """SHA-256 of the training data as it was read."""
    sample: str
    """One example as text, what is learnt between ``⟦`` and ``⟧``, for the log."""
    longest: int
    """Tokens of the longest example."""


def prepare_data(
    examples: Examples,
    tokenizer: Any,  # noqa: ANN401
    training: TrainingSpec,
    method: MethodSpec | None = None,
    too_long: TooLong = "truncate",
) -> PreparedData:
    """Tokenise ``examples`` as TRL's trainers would, see to what is too long, drop what has nothing to learn, and check the rest.

    Give the result to ``SFTTrainer`` with ``packing`` and ``max_length`` set as in ``training``: it packs tokenised rows and keeps their
    labels. Only the leaving out of examples with nothing to learn differs from TRL's own preparation: TRL does so without packing and
    without a word, and with packing not at all.

    :param tokenizer: the base model's. Its ``chat_template`` may be set: see :class:`~finetune_trainer.data.tokenizing.ExampleTokenizer`.
    :raises ConfigInvalid: the tokenizer can't render the data.
    :raises DataInvalid: nothing to learn is left, or the end of answers is not learnt, or an example is too long and ``too_long`` is
        `fail`.
    """
    method = method or MethodSpec()
    sides = []
    for parts in (examples.train_parts, examples.eval_parts):
        try:
            sides.append([_check(part, tokenizer, training, method, too_long) for part in parts])
        except DataInvalid as error:
            raise (error if parts is examples.train_parts else DataInvalid(f"{error.message}. Or set dataset.evalFraction to 0")) from None
    train, held = sides
    checked = [*train, *held]
    counts = DatasetCounts(
        examples=sum(each.count for each in train),
        eval_examples=sum(each.count for each in held),
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
    sample = _render_sample(train[0].columns, tokenizer)
    logger.info(
        "%d examples to train on, %d held out. The first, with what is learnt in ⟦⟧:\n%s", counts.examples, counts.eval_examples, sample
    )
    return PreparedData(
        _to_dataset([each.columns for each in train]),
        _to_dataset([each.columns for each in held]) if held else None,
        counts,
        examples.digest,
        sample,
        max(each.longest for each in checked),
    )


@dataclass(frozen=True, slots=True)
class _Side:
    """What is left of one part."""

    columns: Columns
    count: int
    dropped: int
    truncated: int
    longest: int


def _check(part: Part, tokenizer: Any, training: TrainingSpec, method: MethodSpec, too_long: TooLong) -> _Side:  # noqa: ANN401
    objective = method.objective
    likelihood = objective in PACKING_OBJECTIVES
    rows = [row.value for row in part.rows]
    if objective == "grpo":
        ExampleTokenizer(tokenizer, rows[0], part.format, completion_only=False)  # settles the chat template, or refuses
        prompts = check_prompts(part.rows, tokenizer, training.max_length, (method.grpo or _no_grpo()).max_completion_length)
        _refuse_long(prompts.long, training, part.what, too_long)
        if not prompts.count:
            raise DataInvalid(
                f"{part.what}: no prompt leaves room for an answer of method.grpo.maxCompletionLength within training.maxLength "
                f"({training.max_length}); raise training.maxLength"
            )
        return _Side(prompts.columns, prompts.count, prompts.dropped, 0, prompts.longest)
    completion_only = not likelihood or (training.loss_on == "completion" and objective != "pretrain")
    tokenise = ExampleTokenizer(tokenizer, rows[0], part.format, completion_only=completion_only)
    if likelihood:
        checked = check_examples(
            tokenise.tokenise(rows), training.max_length, tokenise.stop_ids, [row.where for row in part.rows], drop_long=too_long == "drop"
        )
        _refuse_long(checked.long, training, part.what, too_long)
        prove_learnable(checked, training.max_length, part.what)
        columns: Columns = {"input_ids": checked.input_ids, "labels": checked.labels}
        return _Side(columns, len(checked.input_ids), checked.dropped, checked.truncated, max(map(len, checked.input_ids)))
    answers = check_answers(part.rows, objective, tokenise, training.max_length, drop_long=too_long == "drop")
    _refuse_long(answers.long, training, part.what, too_long)
    prove_answers(answers.count, answers.dropped, answers.unended, answers.whole, training.max_length, part.what)
    return _Side(answers.columns, answers.count, answers.dropped, answers.truncated, answers.longest)


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


def _to_dataset(parts: list[Columns]) -> Any:  # noqa: ANN401
    import pyarrow as pa  # noqa: PLC0415  these take seconds to import; the caller has loaded them by now
    from datasets import Dataset  # noqa: PLC0415
    from datasets.table import InMemoryTable  # noqa: PLC0415

    if "prompt" in parts[0]:
        return Dataset.from_list(
            [{"prompt": p, "answer": a} for part in parts for p, a in zip(part["prompt"], part["answer"], strict=True)]
        )
    ids, flag = pa.list_(pa.int32()), pa.bool_()
    tables = [
        pa.table({name: pa.array(values, flag if name == "label" else ids) for name, values in part.items()}) for part in parts if part
    ]
    return Dataset(InMemoryTable(pa.concat_tables(tables).combine_chunks()))
