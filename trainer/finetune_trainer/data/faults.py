"""Rows as they were read, and what is wrong with them."""

import logging
from dataclasses import dataclass, field
from typing import Any, Final

from finetune_trainer.errors import DataInvalid

logger = logging.getLogger(__name__)

Row = dict[str, Any]
MAX_FAULTS: Final = 20
"""Faults that are listed before the count alone goes on."""


@dataclass(frozen=True, slots=True)
class SourceRow:
    """A row as it was read, and where."""

    value: Row
    where: str
    """``file:line`` (or ``file, row N`` where there are no lines)."""


@dataclass(slots=True)
class Faults:
    """Faults of rows, collected so that a person sees them all at once."""

    listed: list[str] = field(default_factory=list)
    count: int = 0

    def add(self, where: str, what: str) -> None:
        """Note that ``what`` is wrong at ``where``."""
        self.count += 1
        if len(self.listed) < MAX_FAULTS:
            self.listed.append(f"{where}: {what}")

    def extend(self, more: "Faults") -> None:
        """Note all of ``more`` after those noted before."""
        self.count += more.count
        self.listed += more.listed[: MAX_FAULTS - len(self.listed)]

    def raise_if_any(self, heading: str) -> None:
        """:raises DataInvalid: there are faults."""
        if self.count:
            raise DataInvalid(f"{heading} ({self.count}):\n{self._list()}")

    def raise_if_above(self, share: float, rows: int) -> None:
        """Log the faults, or give up.

        :param rows: all rows read, malformed ones included.
        :raises DataInvalid: the faults are more than ``share`` of ``rows``.
        """
        if not self.count:
            return
        part = f"{self.count} of {rows} rows are malformed"
        if self.count > share * rows:
            allowed = f", more than dataset.maxMalformedFraction ({share:g}) lets pass" if share else ""
            raise DataInvalid(f"{part}{allowed}:\n{self._list()}")
        logger.warning("%s and left out, as dataset.maxMalformedFraction (%g) lets pass:\n%s", part, share, self._list())

    def _list(self) -> str:
        more = f"\n… and {self.count - len(self.listed)} more" if self.count > len(self.listed) else ""
        return "\n".join(self.listed) + more
