"""The terms of an estimate."""

from dataclasses import dataclass
from typing import Literal

Kind = Literal["held", "moving", "assumed"]
"""``held``: there for the whole run. ``moving``: at the step's peak. ``assumed``: outside PyTorch's allocator, not computed."""


@dataclass(frozen=True, slots=True)
class Term:
    """One part of the memory."""

    name: str
    kind: Kind
    size_bytes: int
    why: str
    """What it is made of."""
