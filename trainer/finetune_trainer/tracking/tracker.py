"""What a tracker is."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

Outcome = Literal["completed", "interrupted", "failed"]


@dataclass(frozen=True, slots=True)
class RunInfo:
    """The run, as trackers are told of it."""

    namespace: str
    name: str
    uid: str
    """The same for every pod of the run: a tracker goes on with what an earlier pod began."""
    project: str
    settings: Mapping[str, str]
    """Every setting by its path."""


@dataclass(frozen=True, slots=True)
class Point:
    """Figures of one step."""

    step: int
    time: float
    """When they were measured, in seconds since the epoch."""
    values: Mapping[str, float] = field(default_factory=dict)


class Tracker(ABC):
    """A tracker. Called from one thread of its own; whatever it raises is logged, and the call is made again later."""

    kind: ClassVar[str]

    @abstractmethod
    def start(self) -> int:
        """Begin the run there, or go on with it, and return the newest step that is known there, 0 where none is. Called again where it
        has failed.
        """

    @abstractmethod
    def log(self, points: Sequence[Point]) -> None:
        """Send ``points``, which come in the order of time."""

    @abstractmethod
    def finish(self, outcome: Outcome, notes: Mapping[str, str]) -> None:
        """End the run there.

        :param notes: what came out, such as the URI and digest of each artifact.
        """
