"""Holding examples out, repeating and leaving them out: by ranks that hang on their content. Pure, and bounded: 16 bytes of memory a row.

Ranks are the first 16 bytes of a digest, as an array of two unsigned 64-bit integers a row.
"""

import hashlib
import json
from collections.abc import Iterable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Ranks = NDArray[np.uint64]
Numbers = NDArray[np.int64]
Mask = NDArray[np.bool_]
_ENCODER: Final = json.JSONEncoder(sort_keys=True, ensure_ascii=True, separators=(",", ":"))


class Ranking:
    """Collects the ranks of rows, one after the other.

    :param seeds: each gives ranks of its own.
    """

    def __init__(self, *seeds: int) -> None:
        self._ranks = {seed: bytearray() for seed in seeds}

    def add(self, row: dict[str, Any]) -> None:
        """Rank ``row`` after those before it."""
        if not self._ranks:
            return
        content = _ENCODER.encode(row)
        for seed, ranks in self._ranks.items():
            ranks.extend(hashlib.sha256(f"{seed}\n{content}".encode()).digest()[:16])

    def build(self, seed: int) -> Ranks:
        """Return the ranks by ``seed``, of shape (rows, 2)."""
        return np.frombuffer(self._ranks[seed], dtype=">u8").astype(np.uint64).reshape(-1, 2)


def rank_rows(rows: Iterable[dict[str, Any]], seed: int) -> Ranks:
    """Return the ranks of ``rows`` by ``seed``."""
    ranking = Ranking(seed)
    for row in rows:
        ranking.add(row)
    return ranking.build(seed)


def choose_held_out(ranks: Ranks, fraction: float) -> Mask:
    """Return which rows to hold out for evaluation.

    They hang on the rows' content and the seed alone, not on the order of rows or files. Equal rows go to the same side, lest the held-out
    loss be measured on what was learnt. With ``fraction`` above 0 and two different rows or more, at least one is held out and never all;
    groups of equal rows that are too large for the share stay in training.

    :param fraction: share of the rows to hold out, 0 to 1.
    """
    held = np.zeros(len(ranks), dtype=np.bool_)
    if fraction <= 0 or len(ranks) < 2:
        return held
    order, begins = _group(ranks)
    if len(begins) < 2:
        return held
    sizes = np.diff(np.append(begins, len(ranks)))
    wanted = min(max(1, round(len(ranks) * fraction)), len(ranks) - 1)
    left = wanted
    for begin, size in zip(begins.tolist(), sizes.tolist(), strict=True):
        if size <= left:
            held[order[begin : begin + size]] = True
            left -= size
            if not left:
                break
    if left == wanted:
        smallest = int(np.argmin(sizes))
        held[order[begins[smallest] : begins[smallest] + sizes[smallest]]] = True
    return held


def repeat_by_weight(count: int, weight: float, ranks: Ranks | None) -> Numbers:
    """Return the numbers of ``count`` rows, each as often as ``weight`` says: 2.5 takes all twice, and half of them, chosen by their
    ``ranks``, once more. At least one is taken where there are any.

    :param ranks: of the rows; None where ``weight`` is whole.
    """
    whole, part = int(weight), weight - int(weight)
    numbers = np.tile(np.arange(count, dtype=np.int64), whole)
    extra = round(part * count)
    if not len(numbers) and not extra and count:
        extra = 1
    if extra and ranks is not None:
        numbers = np.concatenate([numbers, np.sort(_sort(ranks)[:extra])])
    return numbers


def find_duplicates(ranks: Ranks, seen: Ranks) -> Mask:
    """Return which rows are equal to an earlier one or to one of ``seen``."""
    together = np.concatenate([seen, ranks])
    twice = np.ones(len(together), dtype=np.bool_)
    order, begins = _group(together)
    twice[order[begins]] = False
    return twice[len(seen) :]


def _sort(ranks: Ranks) -> Numbers:
    """Return the rows' numbers in the order of their ranks, equal ones in their own."""
    return np.lexsort((ranks[:, 1], ranks[:, 0])).astype(np.int64)


def _group(ranks: Ranks) -> tuple[Numbers, Numbers]:
    """Return the rows' numbers in the order of their ranks, and where in it each group of equal rows begins."""
    order = _sort(ranks)
    ordered = ranks[order]
    differs = (ordered[1:] != ordered[:-1]).any(axis=1)
    begins = np.concatenate([np.zeros(min(1, len(ranks)), dtype=np.int64), np.flatnonzero(differs) + 1])
    return order, begins.astype(np.int64)
