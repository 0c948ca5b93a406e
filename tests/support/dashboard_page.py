"""The dashboard's panels as a page, drawn from what Prometheus answers to their queries: what Grafana would show, without Grafana."""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from html import escape
from typing import Any, Final

from finetune_api.drawing.charts import choose_memory_unit, compute_ticks, format_bytes, format_number

_COLUMN: Final = 60
"""Pixels of one of the grid's 24 columns."""
_ROW: Final = 27
_LEFT: Final = 58
_RIGHT: Final = 14
_TOP: Final = 8
_AXIS: Final = 20
_LEGEND_LINE: Final = 18
_COLORS: Final = ("#73bf69", "#5794f2", "#f2cc0c", "#ff7383", "#b877d9", "#ff9830", "#37bbca", "#8ab8ff", "#fade2a", "#c4162a")
_STYLE: Final = """
body{margin:0;background:#111217;color:#d8d9da;font:13px/1.4 system-ui,"DejaVu Sans",sans-serif}
main{position:relative;margin:14px}
.panel{position:absolute;box-sizing:border-box;padding:8px 10px;background:#181b1f;border:1px solid #25282e;
border-radius:3px;overflow:hidden}
.panel h2{margin:0;font-size:13px;font-weight:600}
.row{position:absolute;font-size:15px;font-weight:600;padding-top:4px}
.stat{font-size:44px;font-weight:600;color:#73bf69;text-align:center;padding-top:38px}
.none{color:#8e8e8e;text-align:center;padding-top:60px}
svg{display:block}text{fill:#9aa0a8;font-size:11px}
ul{margin:2px 0 0;padding:0 0 0 4px;list-style:none;font-size:11px;display:flex;flex-wrap:wrap;gap:0 12px}
"""


@dataclass(frozen=True, slots=True)
class Series:
    """One line: its name in the legend, and its points (Unix time, value)."""

    name: str
    points: Sequence[tuple[float, float]]


Ask = Callable[[str], list[dict[str, Any]]]
"""Asks Prometheus a query over the time that is drawn: series, each with `metric` and `values`."""


def render_dashboard(dashboard: Mapping[str, Any], ask: Ask, fill: Callable[[str], str]) -> tuple[str, int, int]:
    """Return a page of the dashboard, its width and its height in pixels.

    :param fill: puts values in the place of the dashboard's variables.
    """
    panels = dashboard["panels"]
    body = "".join(_render_panel(panel, ask, fill) for panel in panels)
    height = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in panels) * _ROW
    page = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><style>{_STYLE}</style></head><body><main>{body}</main></body></html>'
    )
    return page, 24 * _COLUMN + 28, height + 28


def _render_panel(panel: Mapping[str, Any], ask: Ask, fill: Callable[[str], str]) -> str:
    place = panel["gridPos"]
    width, height = place["w"] * _COLUMN - 6, place["h"] * _ROW - 6
    style = f"left:{place['x'] * _COLUMN}px;top:{place['y'] * _ROW}px;width:{width}px;height:{height}px"
    title = escape(panel["title"])
    if panel["type"] == "row":
        return f'<div class="row" style="{style}">{title}</div>'
    series = [found for target in panel["targets"] for found in _read(target, ask(fill(target["expr"])))]
    defaults = panel["fieldConfig"]["defaults"]
    if not series:
        content = '<div class="none">No data</div>'
    elif panel["type"] == "stat":
        content = f'<div class="stat">{escape(format_value(series[0].points[-1][1], defaults.get("unit")))}</div>'
    else:
        content = _draw(series, defaults, width - 22, height - 36)
    return f'<div class="panel" style="{style}"><h2>{title}</h2>{content}</div>'


def _read(target: Mapping[str, Any], answer: Sequence[Mapping[str, Any]]) -> list[Series]:
    found = []
    for each in answer:
        name = target.get("legendFormat") or ", ".join(each["metric"].values())
        name = re.sub(r"{{\s*(\w+)\s*}}", lambda found, labels=each["metric"]: labels.get(found[1], ""), name).strip()
        points = [(float(time), float(value)) for time, value in each["values"] if math.isfinite(float(value))]
        if points:
            found.append(Series(name, points))
    return sorted(found, key=lambda series: series.name)


def format_value(value: float, unit: str | None) -> str:
    """Return ``value`` in one of Grafana's units."""
    if unit == "bytes":
        return format_bytes(value)
    if unit == "percentunit":
        return f"{100 * value:.3g} %"
    if unit == "s":
        return f"{value * 1000:.3g} ms" if 0 < abs(value) < 1 else f"{value:.3g} s" if abs(value) < 120 else f"{value / 60:.3g} min"
    return format_number(value) + {"h": " h", "ops": " /s"}.get(unit or "", "")


def _draw(series: Sequence[Series], defaults: Mapping[str, Any], width: int, height: int) -> str:
    unit, custom = defaults.get("unit"), defaults.get("custom", {})
    stacked = custom.get("stacking", {}).get("mode") == "normal"
    lines = _stack(series) if stacked else series
    values = [value for line in lines for _, value in line.points]
    times = [time for line in lines for time, _ in line.points]
    scale = _choose_scale(unit, max(values))
    ticks = [tick * scale for tick in compute_ticks(min(defaults.get("min", min(values)), *values) / scale, max(values) / scale, 5)]
    if "decimals" in defaults:
        ticks = [tick for tick in ticks if round(tick, defaults["decimals"]) == tick]
    bottom, top, first, last = ticks[0], max(ticks[-1], *values), min(times), max(times)
    rows = _count_legend_rows(series, width)
    plot_width, plot_height = width - _LEFT - _RIGHT, height - _TOP - _AXIS - rows * _LEGEND_LINE

    def x(time: float) -> float:
        return _LEFT + (time - first) / ((last - first) or 1) * plot_width

    def y(value: float) -> float:
        return _TOP + (top - value) / ((top - bottom) or 1) * plot_height

    parts = []
    for tick in ticks:
        parts.append(f'<line x1="{_LEFT}" x2="{width - _RIGHT}" y1="{y(tick):.1f}" y2="{y(tick):.1f}" stroke="#2c3036"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{y(tick) + 4:.1f}" text-anchor="end">{escape(format_value(tick, unit))}</text>')
    for number in range(4):
        time = first + (last - first) * number / 3
        anchor = {0: "start", 3: "end"}.get(number, "middle")
        clock = f"{datetime.fromtimestamp(time, UTC):%H:%M:%S}"
        parts.append(f'<text x="{x(time):.1f}" y="{_TOP + plot_height + 16}" text-anchor="{anchor}">{clock}</text>')
    fill = custom.get("fillOpacity", 0) / 100
    for number, line in reversed(list(enumerate(lines))):
        color = _COLORS[number % len(_COLORS)]
        path = " ".join(f"{x(time):.1f},{y(value):.1f}" for time, value in line.points)
        if fill:
            ends = f"{x(line.points[-1][0]):.1f},{y(bottom):.1f} {x(line.points[0][0]):.1f},{y(bottom):.1f}"
            parts.append(f'<polygon points="{path} {ends}" fill="{color}" fill-opacity="{fill}"/>')
        parts.append(f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="{max(1.2, custom.get("lineWidth", 1))}"/>')
    legend = "".join(
        f'<li><span style="color:{_COLORS[number % len(_COLORS)]}">▬</span> {escape(line.name)}</li>' for number, line in enumerate(series)
    )
    svg_height = height - rows * _LEGEND_LINE
    return f'<svg width="{width}" height="{svg_height}" viewBox="0 0 {width} {svg_height}">{"".join(parts)}</svg><ul>{legend}</ul>'


def _choose_scale(unit: str | None, largest: float) -> float:
    """Return what round numbers of the axis are multiples of."""
    if unit == "bytes":
        return choose_memory_unit(largest)[1]
    return 60.0 if unit == "s" and largest >= 120 else 1.0


def _stack(series: Sequence[Series]) -> list[Series]:
    below: dict[float, float] = {}
    stacked = []
    for line in series:
        points = [(time, below.get(time, 0.0) + value) for time, value in line.points]
        below |= dict(points)
        stacked.append(Series(line.name, points))
    return stacked


def _count_legend_rows(series: Sequence[Series], width: int) -> int:
    rows, used = 1, 0
    for line in series:
        needed = 7 * len(line.name) + 30
        if used and used + needed > width:
            rows, used = rows + 1, 0
        used += needed
    return rows
