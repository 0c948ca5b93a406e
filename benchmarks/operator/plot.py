"""Line plots as SVG, side by side: a value over sizes that grow by tens, or over time."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

WIDTH, HEIGHT, MARGIN = 280, 220, 48


@dataclass(frozen=True, slots=True)
class Panel:
    """One plot: ``values`` over ``sizes``, the sizes on a logarithmic axis, the values from 0 on."""

    title: str
    sizes: Sequence[float]
    values: Sequence[float]
    timed: bool = False
    """The sizes are minutes from 0 on, on a plain axis, and too many for a mark each."""


def draw(panels: Sequence[Panel]) -> str:
    """Return the panels in a row, as one SVG."""
    width = WIDTH * len(panels)
    style = (
        "text{font:12px sans-serif;fill:#57606a}.t{font-weight:bold}line{stroke:#d0d7de}polyline{fill:none;stroke:#0969da;stroke-width:2}"
    )
    body = "".join(f'<g transform="translate({index * WIDTH},0)">{_draw(panel)}</g>' for index, panel in enumerate(panels))
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {HEIGHT}" width="{width}" height="{HEIGHT}">'
    return f'{head}<style>{style}</style><rect width="100%" height="100%" fill="#fff"/>{body}</svg>\n'


def _draw(panel: Panel) -> str:
    scale = float if panel.timed else math.log10
    low, high = 0.0 if panel.timed else scale(min(panel.sizes)), scale(max(panel.sizes))
    top = _round_up(max(panel.values))

    def x(size: float) -> float:
        return MARGIN + (scale(size) - low) / ((high - low) or 1) * (WIDTH - MARGIN - 24)

    def y(value: float) -> float:
        return HEIGHT - MARGIN + 12 - value / top * (HEIGHT - 2 * MARGIN)

    parts = [f'<text class="t" x="{MARGIN}" y="20">{panel.title}</text>']
    for share in (0, 0.5, 1):
        height = y(top * share)
        parts.append(f'<line x1="{MARGIN}" x2="{WIDTH - 16}" y1="{height:.1f}" y2="{height:.1f}"/>')
        parts.append(f'<text x="{MARGIN - 6}" y="{height + 4:.1f}" text-anchor="end">{top * share:g}</text>')
    points = [(x(size), y(value)) for size, value in zip(panel.sizes, panel.values, strict=True)]
    parts.append('<polyline points="' + " ".join(f"{across:.1f},{down:.1f}" for across, down in points) + '"/>')
    if panel.timed:
        marks = (0.0, high / 2, high)
        parts += [f'<text x="{x(mark):.1f}" y="{HEIGHT - 14}" text-anchor="middle">{mark:.0f} min</text>' for mark in marks]
        return "".join(parts)
    for (across, down), size, value in zip(points, panel.sizes, panel.values, strict=True):
        parts.append(f'<circle cx="{across:.1f}" cy="{down:.1f}" r="3" fill="#0969da"/>')
        parts.append(f'<text x="{across:.1f}" y="{down - 8:.1f}" text-anchor="middle">{value:,.3g}</text>')
        parts.append(f'<text x="{across:.1f}" y="{HEIGHT - 14}" text-anchor="middle">{size:,.0f}</text>')
    return "".join(parts)


def _round_up(value: float) -> float:
    """Return the next of 1, 2, 5, 10, 20, 50 … that leaves room above ``value``."""
    size = 10.0 ** math.floor(math.log10(value or 1))
    return next(factor * size for factor in (1, 2, 5, 10, 20) if factor * size >= 1.05 * value)
