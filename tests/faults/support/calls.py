"""One call to the API server: what it is, from its method and path, and what became of it."""

from dataclasses import dataclass, field
from typing import Final
from urllib.parse import parse_qs, urlsplit

WRITES: Final = frozenset({"create", "patch", "update", "delete"})

_VERBS: Final = {"POST": "create", "PATCH": "patch", "PUT": "update", "DELETE": "delete"}


@dataclass(slots=True)
class Call:
    """A call, numbered in the order in which it reached the proxy."""

    number: int
    verb: str
    """``list``, ``watch``, ``get``, ``create``, ``patch``, ``update`` or ``delete``."""
    resource: str
    """Plural, with the subresource after a slash: ``finetunejobs/status``. A path that names no resource stands here itself."""
    namespace: str | None
    name: str | None
    occurrence: int = 0
    """How many calls of the same verb and resource in the same namespace came before."""
    outcome: list[str] = field(default_factory=list)
    """What became of it: faults that were put in its way, and the status that the caller got."""

    @property
    def is_write(self) -> bool:
        """True of a call that changes something."""
        return self.verb in WRITES and self.resource != "tokenreviews"

    @property
    def signature(self) -> str:
        """Verb and resource: what stays the same from run to run."""
        return f"{self.verb} {self.resource}"

    @property
    def point(self) -> "CrashPoint":
        """The call's place in a run, by which another run's same call is found."""
        return CrashPoint(self.signature, self.occurrence)


@dataclass(frozen=True, slots=True, order=True)
class CrashPoint:
    """The ``occurrence``-th call (from 0) with this signature."""

    signature: str
    occurrence: int

    def __str__(self) -> str:
        return f"{self.signature} #{self.occurrence + 1}"


def parse_call(number: int, method: str, target: str) -> Call:
    """Return the call that ``method`` and ``target`` (path and query) make, as Kubernetes' paths have it."""
    url = urlsplit(target)
    parts = url.path.strip("/").split("/")
    rest = parts[2:] if parts[0] == "api" else parts[3:] if parts[0] == "apis" else []
    namespace = None
    if len(rest) >= 3 and rest[0] == "namespaces":
        namespace, rest = rest[1], rest[2:]
    if not rest:
        return Call(number, _VERBS.get(method, "get"), url.path, None, None)
    resource = "/".join(rest[:1] + rest[2:3])
    name = rest[1] if len(rest) > 1 else None
    verb = _VERBS.get(method) or ("get" if name else "watch" if "watch" in parse_qs(url.query) else "list")
    return Call(number, verb, resource, namespace, name)
