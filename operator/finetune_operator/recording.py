"""What is done for one run in one pass: steps, and calls to the API server within them. Nothing is recorded where nobody asked."""

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Final

Attribute = str | int | float | bool


@dataclass(slots=True)
class Step:
    """A stretch of time; times are Unix time in nanoseconds."""

    name: str
    begun: int
    ended: int = 0
    attributes: dict[str, Attribute] = field(default_factory=dict)
    fault: str = ""
    """Why it failed; empty where it did not."""
    steps: "list[Step]" = field(default_factory=list)
    """What was done within it."""

    @property
    def calls(self) -> int:
        """Calls to the API server within it."""
        return sum(step.calls + (CALL_VERB in step.attributes) for step in self.steps)


CALL_VERB: Final = "http.request.method"
"""Attribute that every call has, by OpenTelemetry's semantic conventions."""
_PARENT: Final[ContextVar[Step | None]] = ContextVar("recording", default=None)
_NOTHING: Final = nullcontext()


@contextmanager
def recording(name: str) -> Iterator[Step]:
    """Record what this task does in this block, as a step of its own."""
    step = Step(name, time.time_ns())
    token = _PARENT.set(step)
    try:
        yield step
    except Exception as error:
        step.fault = f"{type(error).__name__}: {error}"
        raise
    finally:
        step.ended = time.time_ns()
        _PARENT.reset(token)


def step(name: str) -> AbstractContextManager[Step | None]:
    """Record this block as a step of what is recorded now; where nothing is, do nothing."""
    parent = _PARENT.get()
    return _NOTHING if parent is None else _record_within(parent, name)


@contextmanager
def _record_within(parent: Step, name: str) -> Iterator[Step]:
    with recording(name) as child:
        parent.steps.append(child)
        yield child


def record_call(verb: str, path: str, status: int, seconds: float) -> None:
    """Record a call that has just ended; ``status`` 0 is no answer."""
    parent = _PARENT.get()
    if parent is None:
        return
    now = time.time_ns()
    resource = name_resource(path)
    call = Step(f"{verb} {resource}", now - round(seconds * 1e9), now, {CALL_VERB: verb, "k8s.resource": resource})
    if status:
        call.attributes["http.response.status_code"] = status
    call.fault = "no answer" if not status else f"HTTP {status}" if status >= 400 else ""
    parent.steps.append(call)


def name_resource(path: str) -> str:
    """Return the resource that a path of the API server is about, without names: ``finetunejobs/status``, ``jobs``."""
    parts = path.partition("?")[0].strip("/").split("/")
    parts = parts[2 if parts[0] == "api" else 3 :]
    if len(parts) > 2 and parts[0] == "namespaces":
        parts = parts[2:]
    return "/".join([*parts[:1], *parts[2:3]]) or "discovery"
