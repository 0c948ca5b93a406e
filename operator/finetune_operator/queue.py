"""A keyed work queue with the semantics of client-go's: a key is worked on by one worker at a time, however often it is added.

What is added while it is being worked on is worked on once more afterwards. Failures come back after a growing delay.
"""

import asyncio
import heapq
import random
import time
from collections import deque
from collections.abc import Callable
from typing import Final

BACKOFF_BASE: Final = 0.05
BACKOFF_CAP: Final = 60.0
"""Seconds before the first retry of a key, and the longest wait before a later one."""


class WorkQueue:
    """Keys to work on, now or later. Not thread-safe: it belongs to one event loop."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._ready: deque[str] = deque()
        self._dirty: set[str] = set()
        self._processing: set[str] = set()
        self._failures: dict[str, int] = {}
        self._due: dict[str, float] = {}
        self._delayed: list[tuple[float, str]] = []
        self._changed = asyncio.Event()

    def __len__(self) -> int:
        """Number of keys that wait for a worker now."""
        return len(self._ready)

    @property
    def busy(self) -> int:
        """Number of keys that are waiting or being worked on."""
        return len(self._dirty | self._processing)

    def add(self, key: str) -> None:
        """Ask for work on ``key`` as soon as a worker is free."""
        if key in self._dirty:
            return
        self._dirty.add(key)
        self._due.pop(key, None)
        if key not in self._processing:
            self._ready.append(key)
            self._changed.set()

    def add_after(self, key: str, delay: float) -> None:
        """Ask for work on ``key`` in ``delay`` seconds, or earlier if that was asked before."""
        if key in self._dirty:
            return
        if delay <= 0:
            self.add(key)
            return
        due = self._clock() + delay
        if due < self._due.get(key, float("inf")):
            self._due[key] = due
            heapq.heappush(self._delayed, (due, key))
            self._changed.set()

    def retry(self, key: str) -> float:
        """Ask for work on ``key`` after a delay that doubles with each failure in a row; return the delay in seconds."""
        failures = self._failures[key] = self._failures.get(key, 0) + 1
        delay: float = min(BACKOFF_CAP, BACKOFF_BASE * 2.0 ** min(failures - 1, 20))
        delay *= random.uniform(0.5, 1.0)  # noqa: S311  # spreads retries, guards nothing
        self.add_after(key, delay)
        return delay

    def forget(self, key: str) -> None:
        """Start the count of failures of ``key`` anew."""
        self._failures.pop(key, None)

    async def get(self) -> str:
        """Wait for a key to work on; give it back by :meth:`done`."""
        while True:
            self._promote()
            if self._ready:
                key = self._ready.popleft()
                self._dirty.discard(key)
                self._processing.add(key)
                return key
            self._changed.clear()
            timeout = self._delayed[0][0] - self._clock() if self._delayed else None
            try:
                async with asyncio.timeout(timeout):
                    await self._changed.wait()
            except TimeoutError:
                continue

    def done(self, key: str) -> None:
        """Say that the work on ``key`` has ended."""
        self._processing.discard(key)
        if key in self._dirty:
            self._ready.append(key)
            self._changed.set()

    def _promote(self) -> None:
        now = self._clock()
        while self._delayed and self._delayed[0][0] <= now:
            due, key = heapq.heappop(self._delayed)
            if self._due.get(key) == due:
                del self._due[key]
                self.add(key)
        if self._ready:
            self._changed.set()
