"""Of which run the present task speaks: every line that it logs says so."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final

_SUBJECT: Final[ContextVar[Mapping[str, object]]] = ContextVar("subject")
_NOTHING: Final[Mapping[str, object]] = {}


@contextmanager
def speaking_of(uid: str) -> Iterator[None]:
    """Speak of the object with this UID in this block."""
    token = _SUBJECT.set({"uid": uid})
    try:
        yield
    finally:
        _SUBJECT.reset(token)


def add_subject(**known: object) -> None:
    """Say more of the subject (``job``, ``attempt``), until the block of :func:`speaking_of` ends."""
    if (subject := _SUBJECT.get(None)) is not None:
        _SUBJECT.set({**subject, **known})


def read_subject() -> Mapping[str, object]:
    """Return what the present task speaks of."""
    return _SUBJECT.get(_NOTHING)
