"""What was written to the API server, by whom: read from its audit log."""

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Write:
    """One write, as the audit log has it."""

    user: str
    agent: str
    verb: str
    resource: str
    namespace: str
    name: str
    code: int


def read_writes(log: Path, *, user: str, namespace: str | None = None, name: str | None = None, since: int = 0) -> list[Write]:
    """Return the writes of ``user`` beyond byte ``since``; those of a ``namespace``, and of an object called ``name``, if given.

    TokenReviews change nothing and are left out.
    """
    with log.open("rb") as file:
        file.seek(since)
        lines = file.read().split(b"\n")
    writes = [_read(json.loads(line)) for line in lines if line.startswith(b"{") and line.endswith(b"}")]
    return [
        write
        for write in writes
        if write.user == user and write.resource != "tokenreviews" and namespace in (None, write.namespace) and name in (None, write.name)
    ]


def count(writes: list[Write]) -> Counter[tuple[str, str, int]]:
    """Count writes by verb, resource and answer."""
    return Counter((write.verb, write.resource, write.code) for write in writes)


def render(writes: list[Write]) -> str:
    """Return a table of :func:`count`."""
    rows = [f"{verb:8} {resource:24} {code:5} {number:5}" for (verb, resource, code), number in sorted(count(writes).items())]
    return "\n".join([f"{'verb':8} {'resource':24} {'code':>5} {'count':>5}", *rows])


def _read(event: dict[str, object]) -> Write:
    target = event.get("objectRef") or {}
    status, user = event.get("responseStatus") or {}, event["user"]
    assert isinstance(target, dict)
    assert isinstance(status, dict)
    assert isinstance(user, dict)
    resource = "/".join(filter(None, (target.get("resource", ""), target.get("subresource", ""))))
    return Write(
        user=user["username"],
        agent=str(event.get("userAgent", "")),
        verb=str(event["verb"]),
        resource=resource,
        namespace=target.get("namespace", ""),
        name=target.get("name", ""),
        code=status.get("code", 0),
    )
