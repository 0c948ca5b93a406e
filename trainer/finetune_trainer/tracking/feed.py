"""Bringing figures to a tracker from a thread of its own, so that one that is slow, down or wrong costs training nothing."""

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Mapping
from typing import Final

from finetune_trainer.tracking.tracker import Outcome, Point, Tracker

logger = logging.getLogger(__name__)

_KEPT: Final = 20_000
"""Points that wait at most; the oldest go first."""
_BATCH: Final = 200
_FIRST_DELAY: Final = 2.0
_LONGEST_DELAY: Final = 300.0


class TrackerFeed:
    """Feeds one tracker.

    :param interval: shortest time between two batches, in seconds.
    """

    def __init__(self, tracker: Tracker, interval: float = 5.0, first_delay: float = _FIRST_DELAY) -> None:
        self._tracker = tracker
        self._interval = interval
        self._first_delay = first_delay
        self._points: deque[Point] = deque(maxlen=_KEPT)
        self._changed = threading.Condition()
        self._ending: tuple[Outcome, Mapping[str, str]] | None = None
        self._started = False
        self._last_fault = ""
        self.failures = 0
        """Calls that failed."""
        self._thread = threading.Thread(target=self._work, name=f"tracker-{tracker.kind}", daemon=True)
        self._thread.start()

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Take the figures of a step; those that are not finite are left out. Never waits, never raises."""
        finite = {name: float(value) for name, value in values.items() if isinstance(value, (int, float)) and math.isfinite(value)}
        if finite:
            with self._changed:
                self._points.append(Point(step, time.time(), finite))
                self._changed.notify_all()

    def close(self, outcome: Outcome, notes: Mapping[str, str], timeout: float) -> bool:
        """Send what waits and end the run there; wait at most ``timeout`` seconds for it. Returns whether all of it went through."""
        with self._changed:
            self._ending = (outcome, notes)
            self._changed.notify_all()
        self._thread.join(timeout)
        if self._thread.is_alive():
            logger.warning("tracker %s: not done after %.0f s; the rest is not sent", self._tracker.kind, timeout)
            return False
        return not self._points and not self._last_fault

    def _work(self) -> None:
        delay = self._first_delay
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._points or self._ending)
                ending = self._ending
            if self._pass(ending):
                if ending is not None:
                    return
                delay, pause = self._first_delay, self._interval
            elif ending is not None:
                return  # one last try is all that the end waits for
            else:
                delay, pause = min(2 * delay, _LONGEST_DELAY), delay
            with self._changed:
                self._changed.wait_for(lambda: self._ending is not None, pause)

    def _drop_before(self, step: int) -> None:
        """Drop what an earlier pod has sent: a run that goes on begins with its history."""
        with self._changed:
            while self._points and self._points[0].step < step:
                self._points.popleft()

    def _pass(self, ending: tuple[Outcome, Mapping[str, str]] | None) -> bool:
        """Send what waits; and where the run has ended, say so. Returns whether it went through."""
        try:
            if not self._started:
                self._drop_before(self._tracker.start())
                self._started = True
            while True:
                with self._changed:
                    batch = [self._points[number] for number in range(min(_BATCH, len(self._points)))]
                if not batch:
                    break
                self._tracker.log(batch)
                with self._changed:
                    for point in batch:
                        if self._points and self._points[0] is point:  # the oldest may have gone meanwhile
                            self._points.popleft()
            if ending is not None:
                self._tracker.finish(*ending)
        except BaseException as error:  # noqa: BLE001  a tracker's client raises whatever it likes, SystemExit among it
            self.failures += 1
            fault = f"{type(error).__name__}: {str(error).strip()[:300]}"
            if fault != self._last_fault:  # a server that is down for hours is one line, not thousands
                logger.warning("tracker %s (training goes on): %s", self._tracker.kind, fault)
            self._last_fault = fault
            return False
        self._last_fault = ""
        return True
