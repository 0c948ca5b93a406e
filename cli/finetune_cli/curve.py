"""Line plots of dots in Braille characters: two dots across and four down to a character."""

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Final

from rich.text import Text

Point = tuple[float, float]
_DOTS: Final = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
"""Bits of the dots of a Braille character (Unicode block 2800), by row and column."""
STYLES: Final = ("cyan", "magenta", "yellow", "green", "blue", "red")
"""Colours of the first curves."""


def render_plot(curves: Sequence[Sequence[Point]], width: int, height: int) -> Text:
    """Return a plot of ``curves`` in ``height`` lines, the axis with the steps included.

    :param width: characters, the scale at the left included.
    :param curves: points by ascending x; those that are not finite are left out.
    """
    curves = [[point for point in curve if math.isfinite(point[1])] for curve in curves]
    points = [point for curve in curves for point in curve]
    if not points:
        return Text("no loss yet", style="dim")
    low, high = _pad(min(y for _, y in points), max(y for _, y in points))
    left, right = min(x for x, _ in points), max(x for x, _ in points)
    rows = max(2, height - 1)
    labels = [_label(high - (high - low) * row / (rows - 1), high - low) for row in range(rows)]
    margin = max(map(len, labels))
    columns = max(4, width - margin - 2)
    cells = [[0] * columns for _ in range(rows)]
    owners: dict[tuple[int, int], int] = {}
    for number, curve in enumerate(curves):
        dots = [(_scale(x, left, right, 2 * columns), 4 * rows - 1 - _scale(y, low, high, 4 * rows)) for x, y in curve]
        for x, y in _trace(dots):
            cells[y // 4][x // 2] |= _DOTS[y % 4][x % 2]
            owners[y // 4, x // 2] = number
    text = Text(no_wrap=True)
    for row, line in enumerate(cells):
        marked = row in (0, rows - 1) or (rows >= 7 and row == rows // 2)
        text.append(f"{labels[row] if marked else '':>{margin}} {'┤' if marked else '│'}", style="dim")
        for column, bits in enumerate(line):
            style = STYLES[owners[row, column] % len(STYLES)] if bits else ""
            text.append(chr(0x2800 + bits) if bits else " ", style=style)
        text.append("\n")
    first, last = f"{left:g}", f"step {right:g}"
    text.append(f"{'':>{margin}} └{first}{last:>{max(len(last) + 1, columns - len(first))}}", style="dim")
    return text


def _pad(low: float, high: float) -> tuple[float, float]:
    return (low, high) if high > low else (low - max(abs(low) * 0.05, 1e-6), high + max(abs(high) * 0.05, 1e-6))


def _label(value: float, span: float) -> str:
    digits = max(0, min(6, 2 - math.floor(math.log10(span))))
    return f"{value:.{digits}f}"


def _scale(value: float, low: float, high: float, count: int) -> int:
    return 0 if high <= low else min(count - 1, int((value - low) / (high - low) * (count - 1) + 0.5))


def _trace(dots: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Yield the dots of the straight lines between neighbours."""
    yield from dots[:1]
    for (x0, y0), (x1, y1) in itertools.pairwise(dots):
        length = max(abs(x1 - x0), abs(y1 - y0), 1)
        for part in range(1, length + 1):
            yield x0 + round((x1 - x0) * part / length), y0 + round((y1 - y0) * part / length)
