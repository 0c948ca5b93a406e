"""Line charts as inline SVG: no script, no font, no network. Colours come from the page's style sheet, for light and dark."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

Point = tuple[float, float]
_WIDTH: Final = 520
_WIDE: Final = 1080
_LEFT: Final = 62
_RIGHT: Final = 16
_TOP: Final = 12
_BOTTOM: Final = 42
_MAX_POINTS: Final = 480
_TABLE_ROWS: Final = 24


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a chart."""

    name: str
    points: Sequence[Point]
    style: str = "a"
    """Class of the style sheet: `a` or `b` for full lines, `raw` for the faint one behind a smoothed one."""
    dots: bool = False
    """Mark each point: for few, far apart."""


@dataclass(frozen=True, slots=True)
class Chart:
    """A chart over optimizer steps."""

    key: str
    """Unique in its page; letters and digits."""
    title: str
    lines: Sequence[Line]
    form: Callable[[float], str]
    """Writes a value of the vertical axis."""
    height: int = 230
    wide: bool = False
    """As wide as the page."""
    from_zero: bool = False
    """Let the vertical axis begin at 0."""


def format_number(value: float) -> str:
    """Return ``value`` with four significant digits, for people."""
    if value == 0:
        return "0"
    if abs(value) >= 1e6 or abs(value) < 1e-4:
        mantissa, exponent = f"{value:.2e}".split("e")
        return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.4g}"


def format_rate(value: float) -> str:
    """Return a learning rate as people write it: `2e-4`, `1.5e-4`."""
    if value == 0:
        return "0"
    mantissa, exponent = f"{value:.3e}".split("e")
    return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"


def choose_memory_unit(largest: float) -> tuple[str, float]:
    """Return the unit in which ``largest`` bytes read well, and its size in bytes."""
    return ("GiB", 2.0**30) if largest >= 2**30 else ("MiB", 2.0**20)


def format_bytes(value: float) -> str:
    """Return bytes in binary units."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(value) < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.4g} {unit}"
        value /= 1024
    return f"{value:.4g} TiB"


def compute_ticks(low: float, high: float, count: int) -> list[float]:
    """Return about ``count`` round numbers from ``low`` or below to ``high`` or above (1, 2 or 5 times a power of ten apart)."""
    span = high - low
    if span <= 0 or not math.isfinite(span):
        span = abs(high) or 1.0
        low, high = low - span / 2, high + span / 2
    raw = span / max(count - 1, 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * 0.999)
    first = math.floor(low / step + 1e-9)
    last = math.ceil(high / step - 1e-9)
    return [number * step for number in range(first, last + 1)]


def thin(points: Sequence[Point], limit: int = _MAX_POINTS) -> list[Point]:
    """Return at most ``limit`` of ``points``, keeping the lowest and the highest of each stretch, and both ends: no spike is lost."""
    if len(points) <= limit:
        return list(points)
    stretch = math.ceil((len(points) - 2) / max((limit - 2) // 2, 1))
    kept = [points[0]]
    for start in range(1, len(points) - 1, stretch):
        part = points[start : min(start + stretch, len(points) - 1)]
        kept += sorted({min(part, key=lambda point: point[1]), max(part, key=lambda point: point[1])})
    return [*kept, points[-1]]


def smooth(points: Sequence[Point], weight: float = 0.9) -> list[Point]:
    """Return the exponential moving average of ``points``, corrected for its beginning."""
    total, mass, smoothed = 0.0, 0.0, []
    for step, value in points:
        total = weight * total + (1 - weight) * value
        mass = weight * mass + (1 - weight)
        smoothed.append((step, total / mass))
    return smoothed


def render_chart(chart: Chart) -> str:
    """Return ``chart`` as a figure: picture, legend, and the same figures as a table that can be opened."""
    lines = [line for line in chart.lines if line.points]
    if not lines:
        return (
            f'<figure class="chart{" wide" if chart.wide else ""}"><figcaption>{escape(chart.title)}</figcaption>'
            '<p class="muted">Nothing was recorded for this run.</p></figure>'
        )
    legend = ""
    named = [line for line in lines if line.style != "raw"]
    if len(lines) > 1:
        items = "".join(f'<li class="{line.style}">{escape(line.name)}</li>' for line in lines)
        legend = f'<ul class="legend" aria-hidden="true">{items}</ul>'
    return (
        f'<figure class="chart{" wide" if chart.wide else ""}"><figcaption>{escape(chart.title)}</figcaption>'
        f"{legend}{_render_svg(chart, lines)}"
        f"{_render_table(chart, named)}</figure>"
    )


def _describe(chart: Chart, lines: Sequence[Line]) -> str:
    parts = []
    for line in lines:
        if line.style == "raw":
            continue
        first, last = line.points[0], line.points[-1]
        values = [value for _, value in line.points]
        parts.append(
            f"{line.name}: {chart.form(first[1])} at step {first[0]:.0f}, {chart.form(last[1])} at step {last[0]:.0f}, "
            f"lowest {chart.form(min(values))}, highest {chart.form(max(values))}."
        )
    return " ".join(parts)


def _render_svg(chart: Chart, lines: Sequence[Line]) -> str:
    values = [value for line in lines for _, value in line.points]
    steps = [step for line in lines for step, _ in line.points]
    low = 0.0 if chart.from_zero else min(values)
    ticks = compute_ticks(low, max(values), 5)
    bottom, top = ticks[0], ticks[-1]
    width = _WIDE if chart.wide else _WIDTH
    left, right = min(steps), max(steps)
    if left == right:
        left, right = left - 1, right + 1
    plot_width, plot_height = width - _LEFT - _RIGHT, chart.height - _TOP - _BOTTOM

    def x(step: float) -> float:
        return _LEFT + (step - left) / (right - left) * plot_width

    def y(value: float) -> float:
        return _TOP + (top - value) / (top - bottom) * plot_height

    parts = []
    for tick in ticks:
        at = y(tick)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{width - _RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>')
        parts.append(f'<text class="tick" x="{_LEFT - 8}" y="{at + 4:.1f}" text-anchor="end">{escape(chart.form(tick))}</text>')
    marks = [tick for tick in compute_ticks(left, right, 12 if chart.wide else 7) if left <= tick <= right and tick == int(tick)]
    parts += [f'<text class="tick" x="{x(tick):.1f}" y="{chart.height - 22}" text-anchor="middle">{tick:,.0f}</text>' for tick in marks]
    parts.append(f'<text class="tick axis" x="{width - _RIGHT}" y="{chart.height - 5}" text-anchor="end">step</text>')
    for line in lines:
        points = thin(line.points)
        if len(points) > 1:
            path = " ".join(f"{x(step):.1f},{y(value):.1f}" for step, value in points)
            parts.append(f'<polyline class="line {line.style}" points="{path}"/>')
        if line.dots or len(points) == 1:
            parts += [f'<circle class="dot {line.style}" cx="{x(step):.1f}" cy="{y(value):.1f}" r="3.5"/>' for step, value in points]
    return (
        f'<svg viewBox="0 0 {width} {chart.height}" role="img" aria-labelledby="{chart.key}-title {chart.key}-text">'
        f'<title id="{chart.key}-title">{escape(chart.title)}</title><desc id="{chart.key}-text">{escape(_describe(chart, lines))}</desc>'
        f"{''.join(parts)}</svg>"
    )


def _render_table(chart: Chart, lines: Sequence[Line]) -> str:
    by_step: dict[float, dict[str, float]] = {}
    for line in lines:
        count = len(line.points)
        rows = count if line.dots else min(count, _TABLE_ROWS)
        chosen = {round(number * (count - 1) / max(rows - 1, 1)) for number in range(min(rows, _TABLE_ROWS))}
        for index in chosen:
            step, value = line.points[index]
            by_step.setdefault(step, {})[line.name] = value
    head = "".join(f'<th scope="col">{escape(line.name)}</th>' for line in lines)
    body = "".join(
        f'<tr><th scope="row">{step:,.0f}</th>'
        + "".join(f"<td>{escape(chart.form(row[line.name])) if line.name in row else '–'}</td>" for line in lines)
        + "</tr>"
        for step, row in sorted(by_step.items())
    )
    return (
        f"<details><summary>{escape(chart.title)} as a table</summary>"
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(chart.title)} as a table">'
        f'<table><thead><tr><th scope="col">Step</th>{head}</tr></thead><tbody>{body}</tbody></table></div></details>'
    )
