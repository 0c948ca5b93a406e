"""A loss curve that stays small however long the run is."""

from finetune_api.names import HISTORY_MAX_POINTS
from finetune_api.progress import LossPoint

_KEPT = 2 * HISTORY_MAX_POINTS


class LossCurve:
    """Points at even distances over the whole run, and the newest one. Memory is bounded."""

    def __init__(self) -> None:
        self._points: list[LossPoint] = []
        self._newest: LossPoint | None = None
        self._offered = 0
        self._stride = 1

    def add(self, step: int, loss: float) -> None:
        """Add the next point."""
        self._newest = LossPoint(step=step, loss=loss)
        if self._offered % self._stride == 0:
            self._points.append(self._newest)
            if len(self._points) >= _KEPT:
                self._points = self._points[::2]
                self._stride *= 2
        self._offered += 1

    def thin(self, limit: int = HISTORY_MAX_POINTS) -> list[LossPoint]:
        """Return at most ``limit`` points in order, the first and the newest among them."""
        points = list(self._points)
        if self._newest is not None and points[-1] is not self._newest:
            points.append(self._newest)
        if len(points) <= limit:
            return points
        last = len(points) - 1
        return [points[round(number * last / (limit - 1))] for number in range(limit)]
