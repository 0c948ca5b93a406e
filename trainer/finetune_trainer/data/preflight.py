"""Checks on tokenised examples before the first step. Pure."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import repeat

from finetune_trainer.data.faults import MAX_FAULTS
from finetune_trainer.data.tokenizing import IGNORED, Tokenised
from finetune_trainer.errors import DataInvalid

LEARNT_OPEN, LEARNT_CLOSE = "⟦", "⟧"
"""What is learnt stands between these in a rendered example."""


@dataclass(slots=True)
class Tally:
    """What became of examples."""

    count: int = 0
    """Examples that are fit to learn from."""
    dropped: int = 0
    """Examples left out: nothing was left to learn after truncation."""
    truncated: int = 0
    """Examples cut at the maximum length, dropped ones included."""
    unended: int = 0
    """Untruncated examples with no stop token among what is learnt."""
    whole: int = 0
    """Untruncated examples."""
    longest: int = 0
    """Tokens of the longest, after truncation."""
    long: list[str] = field(default_factory=list)
    """Places of the first examples that were too long."""

    def extend(self, more: "Tally") -> None:
        """Count ``more`` after those counted before."""
        for name in ("count", "dropped", "truncated", "unended", "whole"):
            setattr(self, name, getattr(self, name) + getattr(more, name))
        self.longest = max(self.longest, more.longest)
        self.long += more.long[: MAX_FAULTS - len(self.long)]


@dataclass(slots=True)
class Checked(Tally):
    """Examples that are fit to learn from, and what became of the others."""

    input_ids: list[list[int]] = field(default_factory=list)
    labels: list[list[int]] = field(default_factory=list)


def check_examples(
    examples: Iterable[Tokenised],
    max_length: int,
    stop_ids: frozenset[int],
    places: Iterable[str] | None = None,
    *,
    drop_long: bool = False,
) -> Checked:
    """Truncate ``examples`` to ``max_length`` tokens (their beginning stays), drop those with nothing to learn, and count.

    :param places: where each example comes from, for messages.
    :param drop_long: drop an example that is too long instead of cutting it.

    The label of a sequence's first token is never learnt, since nothing comes before it; one with no other label is dropped.
    """
    checked = Checked()
    for example, place in zip(examples, repeat("") if places is None else places, strict=False):
        ids, labels = example.input_ids[:max_length], example.labels[:max_length]
        cut = len(example.input_ids) > max_length
        checked.truncated += cut and not drop_long
        if cut and len(checked.long) < MAX_FAULTS:
            checked.long.append(place)
        if (cut and drop_long) or all(label == IGNORED for label in labels[1:]):
            checked.dropped += 1
            continue
        if not cut:
            checked.whole += 1
            checked.unended += not _ends(labels, stop_ids)
        checked.count += 1
        checked.longest = max(checked.longest, len(ids))
        checked.input_ids.append(ids)
        checked.labels.append(labels)
    return checked


def _ends(labels: Sequence[int], stop_ids: frozenset[int]) -> bool:
    """Tell whether the last stretch of learnt tokens has a stop token in it."""
    for position in range(len(labels) - 1, 0, -1):
        if labels[position] in stop_ids:
            return True
        if labels[position] != IGNORED and labels[position - 1] == IGNORED:
            return False
    return False


def prove_learnable(checked: Tally, max_length: int, what: str) -> None:
    """Check that there is something to learn, and that every untruncated example teaches the model to stop.

    :param what: the data, for messages: `dataset`, `dataset.eval`.
    :raises DataInvalid: nothing is left, or stop tokens are not learnt; says how to mend it.
    """
    if not checked.count:
        raise DataInvalid(
            f"{what}: nothing is left to learn in any of its {checked.dropped} examples: their answers begin after "
            f"training.maxLength ({max_length} tokens) or are empty. Raise training.maxLength or shorten the prompts"
        )
    if checked.unended:
        raise DataInvalid(
            f"{what}: in {checked.unended} of {checked.whole} untruncated examples the end of the answer (EOS, or the chat template's end "
            "of turn) is not learnt, so that the tuned model would not know when to stop. Mend the chat template of the model: each "
            "assistant turn must end in the tokenizer's EOS token, inside {% generation %}…{% endgeneration %} where it has these markers"
        )


def prove_answers(checked: Tally, max_length: int, what: str) -> None:
    """Check, of answers that are compared, what :func:`prove_learnable` checks of examples.

    :raises DataInvalid: nothing is left, or stop tokens are not learnt.
    """
    if not checked.count:
        raise DataInvalid(
            f"{what}: nothing is left to learn in any of its {checked.dropped} examples: within training.maxLength ({max_length} tokens) "
            "their answers are empty or equal. Raise training.maxLength or shorten the prompts"
        )
    if checked.unended:
        raise DataInvalid(
            f"{what}: {checked.unended} of {checked.whole} good answers don't end in a stop token (EOS, or the chat template's end of "
            "turn), so that the tuned model would not know when to stop. Mend the chat template of the model: each assistant turn must "
            "end in it"
        )


def render_example(input_ids: Sequence[int], labels: Sequence[int], decode: Callable[[list[int]], str], max_tokens: int = 400) -> str:
    """Return an example as text, what is learnt between ``⟦`` and ``⟧``. In long ones the middle is left out."""
    parts: list[str] = []
    begin = 0
    for end in range(1, len(labels) + 1):
        if end < len(labels) and (labels[end] == IGNORED) == (labels[begin] == IGNORED):
            continue
        text = _shorten(list(input_ids[begin:end]), decode, max_tokens)
        parts.append(text if labels[begin] == IGNORED else f"{LEARNT_OPEN}{text}{LEARNT_CLOSE}")
        begin = end
    return "".join(parts)


def _shorten(ids: list[int], decode: Callable[[list[int]], str], max_tokens: int) -> str:
    if len(ids) <= max_tokens:
        return decode(ids)
    half = max_tokens // 2
    return f"{decode(ids[:half])} … {len(ids) - 2 * half} tokens … {decode(ids[-half:])}"
