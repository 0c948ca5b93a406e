"""Screens of a terminal, one after the other, as one SVG that plays itself: no script, no font and no player from elsewhere."""

from collections.abc import Sequence
from html import escape
from typing import Final

from rich.color import Color
from rich.console import Console
from rich.segment import Segment
from rich.terminal_theme import SVG_EXPORT_THEME as THEME
from rich.text import Text

Screen = Sequence[Text]
"""The rows of a terminal, from the top."""

_WIDTH: Final = 8.4
"""Pixels of a column: of a monospaced font, three fifths of its size."""
_HEIGHT: Final = 18
"""Pixels of a row."""
_MARGIN: Final = 14
_BAR: Final = 30
"""Pixels of the window's title."""
_SECONDS: Final = 0.8
"""How long a screen stands; the last one, :data:`_LAST` times as long."""
_LAST: Final = 5
_PLAIN: Final = Console(color_system="truecolor", legacy_windows=False, width=1000)
_STYLE: Final = """
text{{font:14px ui-monospace,Menlo,Consolas,'DejaVu Sans Mono',monospace;fill:{ink};white-space:pre}}
.s{{visibility:hidden;animation:s {total:g}s step-end infinite}}
.l{{animation-name:l}}
@keyframes s{{0%{{visibility:visible}}{one:.3f}%,100%{{visibility:hidden}}}}
@keyframes l{{0%{{visibility:visible}}{last:.3f}%,100%{{visibility:hidden}}}}
@media (prefers-reduced-motion:reduce){{.s{{animation:none}}.l{{visibility:visible}}}}
"""


def render_film(screens: Sequence[Screen], title: str, columns: int) -> str:
    """Return the SVG. A screen like the one before is left out; who wants no motion sees the last one.

    :param columns: of the terminal.
    """
    distinct = [screen for index, screen in enumerate(screens) if index == 0 or list(screen) != list(screens[index - 1])]
    slots = len(distinct) - 1 + _LAST
    width = round(columns * _WIDTH + 2 * _MARGIN)
    height = _BAR + max(map(len, distinct)) * _HEIGHT + _MARGIN
    style = _STYLE.format(ink=THEME.foreground_color.hex, total=slots * _SECONDS, one=100 / slots, last=100 * _LAST / slots)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" aria-label="{escape(title)}">',
        f"<style>{style}</style>",
        f'<rect width="{width}" height="{height}" rx="8" fill="{THEME.background_color.hex}"/>',
        f'<text x="{width / 2:g}" y="20" text-anchor="middle" font-weight="bold">{escape(title)}</text>',
    ]
    # Where two screens overlap for a moment, the later one hides the other.
    ground = f'<rect y="{_BAR}" width="{width}" height="{height - _BAR - _MARGIN}" fill="{THEME.background_color.hex}"/>'
    for index, screen in enumerate(distinct):
        kind = "s l" if index == len(distinct) - 1 else "s"
        rows = "".join(_render_row(row, _BAR + (number + 1) * _HEIGHT - 4) for number, row in enumerate(screen))
        parts.append(f'<g class="{kind}" style="animation-delay:{index * _SECONDS:g}s">{ground}{rows}</g>')
    return "\n".join([*parts, "</svg>\n"])


def _render_row(row: Text, y: int) -> str:
    if not row.plain.strip():
        return ""
    spans, column = [], 0
    for segment in Segment.simplify(row.render(_PLAIN)):
        text = segment.text.rstrip("\n")
        if text.strip():
            # Each run of one style has its own place and width, so that columns stand below each other in every font.
            place = f'x="{_MARGIN + column * _WIDTH:g}" textLength="{len(text) * _WIDTH:g}" lengthAdjust="spacingAndGlyphs"'
            spans.append(f"<tspan {place}{_render_style(segment)}>{escape(text)}</tspan>")
        column += len(text)
    return f'<text y="{y}">{"".join(spans)}</text>'


def _render_style(segment: Segment) -> str:
    style = segment.style
    if style is None:
        return ""
    colour: Color | None = style.color
    fill = "" if colour is None or colour.is_default else f' fill="{colour.get_truecolor(THEME).hex}"'
    return fill + (' font-weight="bold"' if style.bold else "")
