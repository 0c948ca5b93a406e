"""From rows as they were read to rows of one format in TRL's shapes, one by one. What is wrong with them is said once all are known."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import get_args

from finetune_api.spec.objective import OBJECTIVE_FORMATS, Objective
from finetune_api.spec.source import DatasetFormat
from finetune_trainer.data.faults import Faults, Row, SourceRow
from finetune_trainer.data.shapes import CONVERTERS, NEEDS, detect_format, is_conversation
from finetune_trainer.data.values import Malformed, refuse_unsupported
from finetune_trainer.errors import DataInvalid


@dataclass(slots=True)
class Shaper:
    """Takes the rows of one source. Holds nothing of them but what messages need."""

    wanted: DatasetFormat = "auto"
    objective: Objective = "sft"
    columns: Mapping[str, str] = field(default_factory=dict)
    """Names in the data, by the names that they become."""
    _present: set[str] = field(default_factory=set)
    _known: dict[frozenset[str], str | DataInvalid] = field(default_factory=dict)
    _first: dict[str, str] = field(default_factory=dict)
    """Place of the first row, by its format."""
    _misfit: DataInvalid | None = None
    """What is wrong with the first row whose columns fit no format."""
    _misfits: Faults = field(default_factory=Faults)
    _malformed: Faults = field(default_factory=Faults)
    _kinds: dict[bool, str] = field(default_factory=dict)
    """Place of the first conversation, and of the first row of texts."""

    def shape(self, row: SourceRow) -> SourceRow | None:
        """Return ``row`` in TRL's shape; None where that can't be, which :meth:`finish` tells."""
        renamed = self._rename(row.value)
        if (format_ := self._find_format(renamed, row.where)) is None or format_ not in CONVERTERS:
            return None
        try:
            refuse_unsupported(renamed)
            shaped = CONVERTERS[format_](renamed)
        except Malformed as error:
            self._malformed.add(row.where, str(error))
            return None
        self._kinds.setdefault(is_conversation(shaped), row.where)
        return SourceRow(shaped, row.where)

    def finish(self, unreadable: Faults, tolerated: float = 0.0, read: int = 0) -> tuple[str, int]:
        """Return the format of the rows that were shaped, and how many were malformed.

        :param unreadable: rows that could not be read.
        :param tolerated: share of the rows that may be malformed.
        :param read: rows that could be read.
        :raises DataInvalid: rows differ in format, or have none; or up to 20 of those that are malformed, with file and line, all at once.
        """
        if not tolerated:
            unreadable.raise_if_any("malformed rows")
        elif not read:
            unreadable.raise_if_above(0.0, unreadable.count)
        self._check_columns()
        format_ = self._settle_format(tolerant=tolerated > 0)
        if not tolerated:
            self._malformed.raise_if_any(f"rows that don't fit the format {format_} ({NEEDS[format_]})")
        if len(self._kinds) > 1:
            raise DataInvalid(
                f"some rows have lists of messages (first at {self._kinds[True]}), others texts in prompt and answers (first at "
                f"{self._kinds[False]}); convert them to one of the two"
            )
        faults = Faults()
        for more in (unreadable, self._misfits, self._malformed):
            faults.extend(more)
        faults.raise_if_above(tolerated, read + unreadable.count)
        return format_, faults.count

    def _rename(self, row: Row) -> Row:
        if not self.columns:
            return row
        self._present.update(row)
        taken = set(self.columns.values()) | set(self.columns)
        return {
            **{name: value for name, value in row.items() if name not in taken},
            **{name: row[column] for name, column in self.columns.items() if column in row},
        }

    def _check_columns(self) -> None:
        for name, column in self.columns.items():
            if self._present and column not in self._present:
                listed = ", ".join(sorted(self._present)[:20]) or "none"
                raise DataInvalid(f"dataset.columns.{name}: no row has a column {column!r}; the columns are {listed}")

    def _find_format(self, row: Row, where: str) -> str | None:
        """Return the format that ``row`` is to have: the one given, or that of the first row that has one."""
        if self.wanted != "auto":
            return self.wanted
        columns = frozenset(name for name, value in row.items() if value is not None)
        if columns not in self._known:
            try:
                self._known[columns] = detect_format(columns, self.objective)
            except DataInvalid as error:
                self._known[columns] = error
        known = self._known[columns]
        if isinstance(known, DataInvalid):
            if self._misfit is None:
                self._misfit = DataInvalid(f"{where}: {known.message}")
            self._misfits.add(where, f"the columns ({', '.join(sorted(columns)) or 'none'}) are not those of the other rows")
            return None
        self._first.setdefault(known, where)
        return known if len(self._first) == 1 else None  # of two formats, nothing is learnt

    def _settle_format(self, *, tolerant: bool) -> str:
        if self.wanted != "auto":
            if self.wanted not in OBJECTIVE_FORMATS[self.objective]:
                suited = ", ".join(OBJECTIVE_FORMATS[self.objective])
                raise DataInvalid(f"dataset.format {self.wanted} is not what the objective {self.objective} learns from; it needs {suited}")
            return self.wanted
        if self._misfit is not None and (not tolerant or not self._first):
            raise self._misfit
        if len(self._first) > 1:
            mixed = ", ".join(f"{name} (first at {where})" for name, where in self._first.items())
            raise DataInvalid(f"the dataset mixes formats: {mixed}. Put each format in a dataset of its own, or convert them to one")
        if not self._first:
            raise DataInvalid("the dataset has no rows")
        return next(iter(self._first))


def shape_rows(rows: Iterable[SourceRow], wanted: DatasetFormat = "auto", objective: Objective = "sft") -> tuple[str, Sequence[SourceRow]]:
    """Return the format of ``rows``, which are few, and what becomes of them; see :class:`Shaper`."""
    if wanted not in get_args(DatasetFormat):
        raise DataInvalid(f"dataset.format {wanted!r} is not one of {', '.join(NEEDS)}")
    shaper = Shaper(wanted, objective)
    shaped = [kept for row in rows if (kept := shaper.shape(row)) is not None]
    return shaper.finish(Faults())[0], shaped
