"""Trying again, within limits."""

import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from finetune_trainer.storage.faults import Fault, classify

T = TypeVar("T")
logger = logging.getLogger(__name__)


class DeadlinePassed(TimeoutError):
    """The total time of a transfer is used up."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often and how long a transfer is tried. All times are in seconds."""

    attempts: int = 6
    """Tries in all, the first one included."""
    first_delay: float = 0.5
    """Delay before the second try; it doubles with each further one, with up to half of it taken off at random."""
    max_delay: float = 20.0
    """Longest delay between two tries."""
    total: float = 6 * 3600.0
    """Time for all tries of one call together."""
    connect_timeout: float = 15.0
    """Time to connect."""
    read_timeout: float = 60.0
    """Longest silence of the peer."""

    def deadline(self) -> "Deadline":
        """Return the deadline of a call that begins now."""
        return Deadline(time.monotonic() + self.total, self.total)


@dataclass(frozen=True, slots=True)
class Deadline:
    """A moment on the monotonic clock."""

    at: float
    total: float

    def check(self) -> None:
        """:raises DeadlinePassed: the moment has passed."""
        if time.monotonic() > self.at:
            raise DeadlinePassed(f"not done after {self.total:.0f} s")


def call_with_retry(operation: Callable[[], T], what: str, policy: RetryPolicy, deadline: Deadline) -> T:
    """Call ``operation`` until it succeeds, its fault is not a passing one, or ``policy`` or ``deadline`` is used up.

    ``operation`` must be safe to repeat. The last exception is raised as it is.
    """
    delay = policy.first_delay
    for attempt in range(1, policy.attempts + 1):
        deadline.check()
        try:
            return operation()
        except Exception as error:
            if attempt == policy.attempts or classify(error) is not Fault.TRANSIENT or isinstance(error, DeadlinePassed):
                raise
            pause = min(delay, policy.max_delay) * random.uniform(0.5, 1.0)  # noqa: S311  spreads retries; no secret hangs on it
            if time.monotonic() + pause > deadline.at:
                raise
            logger.warning("%s failed (%s: %s); trying again in %.1f s", what, type(error).__name__, error, pause)
        time.sleep(pause)
        delay *= 2
    raise AssertionError("unreachable: the last attempt returns or raises")
