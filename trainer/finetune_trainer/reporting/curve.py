"""Curves that stay small however long the run is."""

import math
from collections.abc import Mapping
from typing import Final, Generic, TypeVar

from finetune_api.names import CURVES_MAX_POINTS, HISTORY_MAX_POINTS
from finetune_api.progress import Curves, LossPoint

_KEPT = 2 * HISTORY_MAX_POINTS
_LIMIT: Final = 1e15
CURVES: Final = ("learning_rate", "grad_norm", "tokens_per_second", "memory_bytes")
"""Figures that a curve of their own is kept of, by the names of :class:`~finetune_api.progress.Curves`."""

T = TypeVar("T")


class Thinned(Generic[T]):
    """Points at even distances over the whole run, and the newest one. Memory is bounded."""

    def __init__(self) -> None:
        self._points: list[T] = []
        self._newest: T | None = None
        self._offered = 0
        self._stride = 1

    def offer(self, point: T) -> None:
        """Add the next point."""
        self._newest = point
        if self._offered % self._stride == 0:
            self._points.append(point)
            if len(self._points) >= _KEPT:
                self._points = self._points[::2]
                self._stride *= 2
        self._offered += 1

    def choose(self, limit: int) -> list[T]:
        """Return at most ``limit`` points in order, the first and the newest among them."""
        points = list(self._points)
        if self._newest is not None and points[-1] is not self._newest:
            points.append(self._newest)
        if len(points) <= limit:
            return points
        last = len(points) - 1
        return [points[round(number * last / (limit - 1))] for number in range(limit)]


class LossCurve(Thinned[LossPoint]):
    """The curve of the loss."""

    def add(self, step: int, loss: float) -> None:
        """Add the next point."""
        self.offer(LossPoint(step=step, loss=loss))

    def thin(self, limit: int = HISTORY_MAX_POINTS) -> list[LossPoint]:
        """Return at most ``limit`` points in order, the first and the newest among them."""
        return self.choose(limit)


class CurveSet(Thinned[tuple[int, Mapping[str, float]]]):
    """The other curves, over the same steps."""

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Add what was measured at ``step``; figures that have no curve, and such as are no numbers, are left out."""
        known = {name: value for name in CURVES if (value := values.get(name)) is not None and math.isfinite(value)}
        self.offer((step, known))

    def build(self) -> Curves | None:
        """Return the curves; None before the second point."""
        points = self.choose(CURVES_MAX_POINTS)
        if len(points) < 2:
            return None
        found = {
            name: [max(0, min(values[name], _LIMIT)) for _, values in points]
            for name in CURVES
            if all(name in values for _, values in points)
        }
        return Curves.model_validate({"steps": [step for step, _ in points], **found})
