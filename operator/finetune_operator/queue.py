"""A keyed work queue with the semantics of client-go's: a key is worked on by one worker at a time, however often it is added.

What is added while it is being worked on is worked on once more afterwards. Failures come back after a growing delay.

Urgent keys go first, but not for ever: while there are others, every :data:`URGENT_IN_A_ROW` urgent ones let one of them pass.
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
URGENT_IN_A_ROW: Final = 16
OUTDATED_KEPT: Final = 1_000
"""Delays in the heap that count no more, over as many as count: a key whose time is a week away leaves one at every pass."""


class WorkQueue:
    """Keys to work on, now or later. Not thread-safe: it belongs to one event loop."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._ready: dict[bool, deque[str]] = {True: deque(), False: deque()}
        """Keys that wait, the urgent ones apart. A key that became urgent stays in the other line too, and is passed over there."""
        self._dirty: dict[str, bool] = {}
        """Keys that are to be worked on, and whether it is urgent."""
        self._urgent_in_a_row = 0
        self._processing: set[str] = set()
        self._failures: dict[str, int] = {}
        self._due: dict[str, float] = {}
        self._delayed: list[tuple[float, str]] = []
        self._waiters: deque[asyncio.Future[None]] = deque()
        self._alarm: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        """Number of keys that wait for a worker now."""
        return sum(key not in self._processing for key in self._dirty)

    @property
    def busy(self) -> int:
        """Number of keys that are waiting or being worked on."""
        return len(self._dirty.keys() | self._processing)

    def add(self, key: str, *, urgent: bool = False) -> None:
        """Ask for work on ``key`` as soon as a worker is free, and before all that is not urgent if it is."""
        if key in self._dirty and (self._dirty[key] or not urgent):
            return
        self._dirty[key] = urgent
        self._due.pop(key, None)
        if key not in self._processing:
            self._ready[urgent].append(key)
            self._wake()

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
            if len(self._delayed) > 2 * len(self._due) + OUTDATED_KEPT:
                self._delayed = [(due, key) for key, due in self._due.items()]
                heapq.heapify(self._delayed)
            self._set_alarm()

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
            if (key := self._take()) is not None:
                del self._dirty[key]
                self._processing.add(key)
                return key
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            self._set_alarm()
            try:
                await waiter
            except asyncio.CancelledError:
                if waiter in self._waiters:
                    self._waiters.remove(waiter)
                elif not waiter.cancelled():
                    self._wake()  # what it was woken for is another's now
                raise

    def done(self, key: str) -> None:
        """Say that the work on ``key`` has ended."""
        self._processing.discard(key)
        if key in self._dirty:
            self._ready[self._dirty[key]].append(key)
            self._wake()

    def _take(self) -> str | None:
        """Take the next key out of its line; one that was worked on since it got in line, or got into the other one, is passed over."""
        others_turn = self._urgent_in_a_row >= URGENT_IN_A_ROW
        for urgent in (not others_turn, others_turn):
            line = self._ready[urgent]
            while line:
                key = line.popleft()
                if self._dirty.get(key) is urgent and key not in self._processing:
                    self._urgent_in_a_row = self._urgent_in_a_row + 1 if urgent else 0
                    return key
        return None

    def _promote(self) -> None:
        now = self._clock()
        while self._delayed and self._delayed[0][0] <= now:
            due, key = heapq.heappop(self._delayed)
            if self._due.get(key) == due:
                del self._due[key]
                self.add(key)

    def _wake(self) -> None:
        """Wake one of those that wait."""
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return

    def _set_alarm(self) -> None:
        """See to it that somebody who waits is woken when the next delay is over."""
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        if self._waiters and self._delayed:
            self._alarm = asyncio.get_running_loop().call_later(max(0.0, self._delayed[0][0] - self._clock()), self._ring)

    def _ring(self) -> None:
        self._promote()
        self._set_alarm()
