"""From curves to the figures of the page."""

import statistics
from collections.abc import Mapping
from dataclasses import dataclass

from benchmarks.curves.contenders import CONTENDERS, REFERENCE
from benchmarks.curves.training import Curve

Seed = Mapping[str, Curve]
"""The curves of one seed, by contender."""


@dataclass(frozen=True, slots=True)
class Closeness:
    """How near a contender stays to the reference. Losses are means over the seeds, in nats a token."""

    first: float
    """Held-out loss before the first step: what quantisation alone costs the base."""
    last: float
    """After the last step."""
    fell: float
    """Share of what the reference's loss fell by that this one's fell by."""
    apart: float
    """Mean distance to the reference of the same seed, over all measurements after the first step, as a share of the reference's loss."""
    farthest: float
    """The largest of those distances."""


def compare(seeds: list[Seed]) -> dict[str, Closeness]:
    """Return the closeness of each contender, the reference among them."""
    return {name: _compare(name, seeds) for name in CONTENDERS}


def measure_seeds(seeds: list[Seed]) -> float:
    """Return how far the reference's curves of two seeds lie apart: the mean share over all pairs and measurements after the first step."""
    pairs = [(one[REFERENCE], other[REFERENCE]) for at, one in enumerate(seeds) for other in seeds[at + 1 :]]
    return statistics.mean(each for one, other in pairs for each in _measure_distances(other, one))


def _compare(name: str, seeds: list[Seed]) -> Closeness:
    own, reference = [seed[name] for seed in seeds], [seed[REFERENCE] for seed in seeds]
    distances = [each for mine, theirs in zip(own, reference, strict=True) for each in _measure_distances(mine, theirs)]
    first, last = (statistics.mean(curve[at][1] for curve in own) for at in (0, -1))
    fall = statistics.mean(curve[0][1] - curve[-1][1] for curve in reference)
    return Closeness(first, last, (first - last) / fall, statistics.mean(distances), max(distances))


def _measure_distances(curve: Curve, reference: Curve) -> list[float]:
    return [abs(mine - theirs) / theirs for (_, mine), (_, theirs) in zip(curve[1:], reference[1:], strict=True)]
