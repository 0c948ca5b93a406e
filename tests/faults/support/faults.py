"""Faults, and the rules that say which calls and watch events they befall.

A fault of a call stands in the way of one request; a fault of a watch changes what its stream shows. All are plain data, so a
test's list of rules is its script; what is left to chance is drawn from the proxy's seeded generator.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from tests.faults.support.calls import Call, CrashPoint

AT_ONCE: Final = -1


@dataclass(frozen=True, slots=True)
class DropRequest:
    """The connection ends before the API server has seen the request."""


@dataclass(frozen=True, slots=True)
class DropReply:
    """The API server does what was asked; the connection ends before the caller hears of it."""


@dataclass(frozen=True, slots=True)
class Delay:
    """The request waits this many seconds, drawn evenly from the span, before it goes on."""

    least: float
    most: float | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """The proxy answers in the API server's place."""

    status: int
    reason: str = ""
    retry_after: int | None = None
    message: str = "injected by the fault proxy"

    def build_body(self) -> bytes:
        """Return the answer as the API server words its own."""
        reason = self.reason or _REASONS.get(self.status, "InternalError")
        status = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": self.message, "reason": reason, "code": self.status}
        return json.dumps(status).encode()


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A list is answered with this body, taken earlier: another API server's older cache."""

    body: bytes


@dataclass(frozen=True, slots=True)
class Before:
    """Something happens (the operator is killed, say) before the request goes on; the request then never arrives."""

    action: Callable[[], None]


@dataclass(frozen=True, slots=True)
class After:
    """Something happens once the API server has answered; the answer then never arrives."""

    action: Callable[[], None]


@dataclass(frozen=True, slots=True)
class HoldBack:
    """Each event of the watch comes this many seconds late, in order: a stale view."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Stall:
    """From its next event on the stream says nothing more, bookmarks included, and stays open."""


@dataclass(frozen=True, slots=True)
class Cut:
    """The stream ends in the middle of its next event."""


@dataclass(frozen=True, slots=True)
class DropEvent:
    """The event is not shown."""


@dataclass(frozen=True, slots=True)
class ErrorEvent:
    """In the event's place the watch shows an error, and ends: 410 is "too old resource version"."""

    status: int = 410

    def build_line(self) -> bytes:
        """Return the line of the stream that says so."""
        error = json.loads(Answer(self.status, message="too old resource version" if self.status == 410 else "injected").build_body())
        return json.dumps({"type": "ERROR", "object": error}).encode() + b"\n"


CallFault = DropRequest | DropReply | Delay | Answer | Snapshot | Before | After
WatchFault = HoldBack | Stall | Cut | DropEvent | ErrorEvent


@dataclass(slots=True)
class Rule:
    """Which calls (or, of a watch fault, which events of which watches) a fault befalls, and how often."""

    fault: CallFault | WatchFault
    signature: str | None = None
    """``verb resource``; None is any. ``write`` stands for every write."""
    namespace: str | None = None
    point: CrashPoint | None = None
    event: int | None = None
    """Of a watch fault: only the event with this number (from 0, bookmarks not counted) since the proxy began, by watch and namespace;
    :data:`AT_ONCE` stands for the beginning of a stream, before any event."""
    times: int | None = None
    """How many more it befalls; None is all."""
    probability: float = 1.0
    once_each: bool = False
    """At most once for each signature and namespace and name: "every first write"."""
    active: bool = True
    hits: list[str] = field(default_factory=list)
    """Calls that it has befallen."""
    _met: set[tuple[str, str | None, str | None]] = field(default_factory=set)

    @property
    def is_of_watch(self) -> bool:
        """True of a fault that changes a watch's stream."""
        return isinstance(self.fault, WatchFault)

    def fits(self, call: Call, chance: float) -> bool:
        """True if it befalls ``call``; ``chance`` is drawn from 0 to 1. To be followed by :meth:`count`."""
        if not self.active or self.times == 0 or (self.namespace is not None and call.namespace != self.namespace):
            return False
        if self.signature is not None and self.signature != call.signature and not (self.signature == "write" and call.is_write):
            return False
        if self.point is not None and self.point != call.point:
            return False
        if self.once_each and (call.signature, call.namespace, call.name) in self._met:
            return False
        return chance < self.probability

    def count(self, call: Call) -> None:
        """Take note that it has befallen ``call``."""
        self.hits.append(str(call.point))
        self._met.add((call.signature, call.namespace, call.name))
        if self.times is not None:
            self.times -= 1


_REASONS = {
    403: "Forbidden",
    404: "NotFound",
    409: "Conflict",
    410: "Expired",
    422: "Invalid",
    429: "TooManyRequests",
    500: "InternalError",
    503: "ServiceUnavailable",
    504: "Timeout",
}
