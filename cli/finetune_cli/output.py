"""Where output goes, and in which form."""

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Any, Final, Literal

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

_BOUNDLESS: Final = 100_000
"""Columns: more than any table has."""
_FOLDED_WIDTH: Final = 20
"""Columns that are left to a column that folds, however narrow the terminal is."""


class OutputFormat(StrEnum):
    """Forms of output."""

    TEXT = "text"
    """For people: a table."""
    JSON = "json"
    YAML = "yaml"
    NAME = "name"
    """`finetunejob.finetune.dev/NAME`, a line each."""


class DataFormat(StrEnum):
    """Forms of output of what is no FineTuneJob."""

    TEXT = "text"
    JSON = "json"
    YAML = "yaml"


def make_console() -> Console:
    """Return the console for results. Colours only on a terminal, and not where ``NO_COLOR`` is set."""
    return Console(highlight=False, markup=False, soft_wrap=False)


def make_message_console() -> Console:
    """Return the console for what is no result: standard error."""
    return Console(stderr=True, highlight=False, markup=False, soft_wrap=True)


def print_data(data: object, form: OutputFormat | DataFormat) -> None:
    """Print ``data`` as JSON or YAML."""
    if form == "yaml":
        import yaml  # noqa: PLC0415  start-up

        sys.stdout.write(yaml.safe_dump(data, sort_keys=False, allow_unicode=True))
    else:
        sys.stdout.write(json.dumps(data, indent=2, ensure_ascii=False) + "\n")


def print_bodies(bodies: Sequence[Mapping[str, Any]], form: OutputFormat, *, as_list: bool) -> None:
    """Print FineTuneJobs as a script wants them; ``as_list`` wraps them as kubectl does."""
    if form is OutputFormat.NAME:
        sys.stdout.writelines(f"finetunejob.finetune.dev/{body['metadata']['name']}\n" for body in bodies)
    elif as_list:
        print_data({"apiVersion": "v1", "kind": "List", "items": [dict(body) for body in bodies]}, form)
    else:
        print_data(dict(bodies[0]), form)


def build_table(titles: Iterable[str], rows: Iterable[Sequence[str | Text]], *, right: Sequence[str] = (), fold: str = "") -> Table:
    """Return a table without frames, as kubectl's: it stays whole when it is piped.

    :param right: columns of numbers.
    :param fold: the column that goes on in the next line where the terminal is too narrow.
    """
    table = Table(box=None, pad_edge=False, show_edge=False, header_style="bold", padding=(0, 3, 0, 0))
    for title in titles:
        justify: Literal["left", "right"] = "right" if title in right else "left"
        least = _FOLDED_WIDTH if title == fold else None
        table.add_column(title, no_wrap=title != fold, min_width=least, overflow="fold", justify=justify)
    for row in rows:
        table.add_row(*(cell if isinstance(cell, Text) else Text(cell) for cell in row))
    return table


def print_table(table: Table, console: Console) -> None:
    """Print a table; into a pipe in its full width.

    On a terminal that is too narrow even for the columns that don't fold, the lines run over, as kubectl's do: a name that is cut
    in pieces can't be copied.
    """
    needed = Measurement.get(console, console.options.update(width=_BOUNDLESS), table)
    width = console.width
    console.width = max(width, needed.minimum) if console.is_terminal else needed.maximum
    console.print(table)
    console.width = width
