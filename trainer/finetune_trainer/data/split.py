"""Holding examples out for evaluation."""

import hashlib
import json
from collections.abc import Sequence
from itertools import groupby
from typing import Any


def split_examples(rows: Sequence[dict[str, Any]], fraction: float, seed: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Split ``rows`` into those to train on and those held out, each in their order in ``rows``.

    Which rows are held out hangs on their content and ``seed`` alone, not on the order of rows or files. Equal rows go to the same side,
    lest the held-out loss be measured on what was learnt. With ``fraction`` above 0 and two different rows or more, at least one is held
    out and never all; groups of equal rows that are too large for the share stay in training.

    :param fraction: share of the rows to hold out, 0 to 1.
    """
    held = choose_held_out(rows, fraction, seed)
    return [row for number, row in enumerate(rows) if number not in held], [row for number, row in enumerate(rows) if number in held]


def choose_held_out(rows: Sequence[dict[str, Any]], fraction: float, seed: int) -> set[int]:
    """Return the numbers of the rows that :func:`split_examples` holds out."""
    if fraction <= 0 or len(rows) < 2:
        return set()
    ranked = sorted((_rank(row, seed), number) for number, row in enumerate(rows))
    groups = [[number for _, number in group] for _, group in groupby(ranked, key=lambda item: item[0])]
    if len(groups) < 2:
        return set()
    wanted = min(max(1, round(len(rows) * fraction)), len(rows) - 1)
    held: set[int] = set()
    for group in groups:
        if len(held) + len(group) <= wanted:
            held.update(group)
    if not held:
        smallest = min(groups, key=len)
        held.update(smallest)
    return held


def repeat_by_weight(rows: Sequence[dict[str, Any]], weight: float, seed: int) -> list[int]:
    """Return the numbers of ``rows``, each as often as ``weight`` says: 2.5 takes all twice, and half of them, chosen by their content and
    ``seed``, once more. At least one is taken where there are any.
    """
    whole, part = int(weight), weight - int(weight)
    numbers = list(range(len(rows))) * whole
    extra = round(part * len(rows))
    if not numbers and not extra and rows:
        extra = 1
    if extra:
        ranked = sorted(range(len(rows)), key=lambda number: (_rank(rows[number], seed), number))
        numbers += sorted(ranked[:extra])
    return numbers


def find_duplicates(rows: Sequence[dict[str, Any]], seen: set[bytes]) -> set[int]:
    """Return the numbers of those of ``rows`` that are equal to an earlier one or to one of ``seen``, which takes the digests of all."""
    twice: set[int] = set()
    for number, row in enumerate(rows):
        digest = _rank(row, 0)
        if digest in seen:
            twice.add(number)
        seen.add(digest)
    return twice


def _rank(row: dict[str, Any], seed: int) -> bytes:
    content = json.dumps(row, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(f"{seed}\n{content}".encode()).digest()
