"""What became of each cell, kept in a file so that an interrupted run of the matrix goes on where it was."""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

LIBRARIES = ("torch", "transformers", "peft", "trl", "accelerate", "bitsandbytes")


@dataclass(frozen=True, slots=True)
class Ending:
    """What became of a cell. One of ``refused``, ``failed``, ``losses`` and ``rewards`` is given."""

    refused: str | None = None
    """Why a manifest like this is not taken."""
    failed: str | None = None
    """What went wrong although it was taken."""
    losses: tuple[float, float] | None = None
    """Held-out loss before the first step and after the last one, as the objective defines it."""
    rewards: tuple[float, float] | None = None
    """Of the objective grpo, whose loss says nothing: mean reward of the answers to held-out prompts, before and after."""
    seconds: float = 0.0
    """Time that it took, other cells beside it."""

    @property
    def as_promised(self) -> bool:
        """Whether it was refused with a reason, or learnt something."""
        if self.rewards is not None:
            return self.rewards[1] > self.rewards[0]
        return self.refused is not None or (self.losses is not None and self.losses[1] < self.losses[0])


class EndingBook:
    """Endings by the name and the configuration of their cell: one of other settings or other libraries does not count.

    :param file: one line of JSON for each ending; it may end in half a line.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._known: dict[str, Ending] = {}
        for line in file.read_text().splitlines() if file.exists() else []:
            try:
                entry = json.loads(line)
                self._known[entry["key"]] = _read(entry["ending"])
            except (ValueError, KeyError, TypeError):
                continue  # the run died while it wrote this

    def find(self, key: str, *, again: bool = True) -> Ending | None:
        """Return what is known of the cell with ``key``; where failures are to be tried ``again``, nothing is known of them."""
        ending = self._known.get(key)
        return ending if ending is not None and (ending.as_promised or not again) else None

    def note(self, key: str, name: str, ending: Ending) -> None:
        """Keep ``ending``."""
        self._known[key] = ending
        self._file.parent.mkdir(parents=True, exist_ok=True)
        with self._file.open("a", encoding="utf-8") as book:
            book.write(f"\n{json.dumps({'key': key, 'name': name, 'ending': dataclasses.asdict(ending)})}\n")


def build_key(config: Mapping[str, Any], workspace: Path) -> str:
    """Return what identifies a run of ``config``: its settings, wherever its files are, and the libraries."""
    settings = json.dumps(config, sort_keys=True).replace(str(workspace), "")
    return hashlib.sha256(f"{settings}\n{_list_versions()}".encode()).hexdigest()[:16]


@functools.cache
def _list_versions() -> str:
    return "\n".join(f"{name} {version(name)}" for name in LIBRARIES)


def _read(fields: Mapping[str, Any]) -> Ending:
    pairs = {name: tuple(fields[name]) for name in ("losses", "rewards") if fields[name] is not None}
    return Ending(**{**fields, **pairs})
