"""Curves of several contenders over the steps, as one SVG."""

import math
from collections.abc import Mapping

from benchmarks.curves.training import Curve

_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 760, 340, 52, 170, 16, 36
_COLOURS = ("#1f2328", "#8c959f", "#0969da", "#cf222e", "#1a7f37", "#8250df", "#bf8700")
_STYLE = "text{font:12px sans-serif;fill:#57606a}line{stroke:#d0d7de}polyline{fill:none;stroke-width:1.6}"


def draw(curves: Mapping[str, Curve], title: str) -> str:
    """Return the picture of ``curves``, which all have a value for step 0."""
    values = [value for curve in curves.values() for _, value in curve]
    low, high = math.floor(min(values) * 4) / 4, math.ceil(max(values) * 4) / 4
    steps = max(step for curve in curves.values() for step, _ in curve)

    def x(step: float) -> float:
        return _LEFT + step / steps * (_WIDTH - _LEFT - _RIGHT)

    def y(value: float) -> float:
        return _TOP + (high - value) / (high - low) * (_HEIGHT - _TOP - _BOTTOM)

    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" height="{_HEIGHT}">'
    parts = [f'{head}<title>{title}</title><style>{_STYLE}</style><rect width="100%" height="100%" fill="#fff"/>']
    for part in range(5):
        value, step = low + (high - low) * part / 4, steps * part / 4
        parts.append(f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y(value):.1f}" y2="{y(value):.1f}"/>')
        parts.append(f'<text x="{_LEFT - 8}" y="{y(value) + 4:.1f}" text-anchor="end">{value:.2f}</text>')
        parts.append(f'<text x="{x(step):.1f}" y="{_HEIGHT - 14}" text-anchor="middle">{step:.0f}</text>')
    for place, (name, curve) in enumerate(curves.items()):
        colour = _COLOURS[place % len(_COLOURS)]
        points = " ".join(f"{x(step):.1f},{y(value):.1f}" for step, value in curve)
        parts.append(f'<polyline points="{points}" stroke="{colour}"/>')
        height = _TOP + 12 + 20 * place
        parts.append(f'<polyline points="{_WIDTH - _RIGHT + 16},{height - 4} {_WIDTH - _RIGHT + 40},{height - 4}" stroke="{colour}"/>')
        parts.append(f'<text x="{_WIDTH - _RIGHT + 46}" y="{height}">{name}</text>')
    return "".join(parts) + "</svg>\n"
