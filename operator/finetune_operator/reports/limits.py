"""Token buckets: how many calls a second, and how many at once after a quiet time."""

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

KEYS_KEPT: Final = 50_000


class RateLimit:
    """A token bucket for each key; the longest unused keys are forgotten."""

    def __init__(self, per_second: float, burst: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_second = per_second
        self._burst = burst
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def allows(self, key: str = "") -> bool:
        """Take a token from the bucket of ``key``; False where it is empty."""
        now = self._clock()
        tokens, at = self._buckets.pop(key, (self._burst, now))
        tokens = min(self._burst, tokens + (now - at) * self._per_second)
        allowed = tokens >= 1
        self._buckets[key] = (tokens - 1 if allowed else tokens, now)
        if len(self._buckets) > KEYS_KEPT:
            self._buckets.popitem(last=False)
        return allowed
