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
    if fraction <= 0 or len(rows) < 2:
        return list(rows), []
    ranked = sorted((_rank(row, seed), number) for number, row in enumerate(rows))
    groups = [[number for _, number in group] for _, group in groupby(ranked, key=lambda item: item[0])]
    if len(groups) < 2:
        return list(rows), []
    wanted = min(max(1, round(len(rows) * fraction)), len(rows) - 1)
    held: set[int] = set()
    for group in groups:
        if len(held) + len(group) <= wanted:
            held.update(group)
    if not held:
        smallest = min(groups, key=len)
        held.update(smallest)
    return [row for number, row in enumerate(rows) if number not in held], [row for number, row in enumerate(rows) if number in held]


def _rank(row: dict[str, Any], seed: int) -> bytes:
    content = json.dumps(row, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(f"{seed}\n{content}".encode()).digest()
