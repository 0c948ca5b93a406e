"""One run's curves and samples as markup: pure functions of `status.metrics`, whatever release wrote it."""

from collections.abc import Iterator, Mapping
from html import escape
from itertools import takewhile
from typing import Any, Final

from finetune_api.drawing.charts import Chart, Line, Point, choose_memory_unit, format_number, format_rate, render_chart

_DOTS_BELOW: Final = 25
"""Of fewer points than these, each is marked."""
_TITLES: Final = {
    "learningRate": "Learning rate",
    "gradNorm": "Gradient norm, before clipping",
    "tokensPerSecond": "Throughput (tokens a second)",
}


def render_charts(metrics: Mapping[str, Any]) -> Iterator[str]:
    """Yield the charts of a run: the loss, and what else was measured over it."""
    history = [each for each in metrics.get("history") or () if isinstance(each, Mapping)]
    loss = [(float(each["step"]), float(each["loss"])) for each in history if _is_number(each.get("step")) and _is_number(each.get("loss"))]
    yield render_chart(Chart("loss", "Training loss", [Line("loss", loss, dots=len(loss) < _DOTS_BELOW)], format_number, wide=True))
    curves = metrics.get("curves")
    if not isinstance(curves, Mapping):
        return
    for key, title in _TITLES.items():
        if points := _read_curve(curves, key):
            form = format_rate if key == "learningRate" else format_number
            yield render_chart(Chart(key, title, [Line(title, points, dots=len(points) < _DOTS_BELOW)], form, from_zero=True))
    if memory := _read_curve(curves, "memoryBytes"):
        unit, size = choose_memory_unit(max(value for _, value in memory))
        title = f"{'GPU memory held' if metrics.get('gpuMemoryPeakBytes') else 'Memory of the process'} ({unit})"
        points = [(step, value / size) for step, value in memory]
        yield render_chart(Chart("memory", title, [Line(title, points, dots=len(points) < _DOTS_BELOW)], format_number, from_zero=True))


def render_samples(metrics: Mapping[str, Any], *, has_ended: bool) -> str:
    """Return the samples side by side; nothing where the run shows none."""
    samples = [each for each in metrics.get("samples") or () if isinstance(each, Mapping)]
    if not samples:
        return ""
    later = "not asked" if has_ended else "not yet: it is asked once training is done"
    cards = "".join(
        f'<article class="card sample" aria-label="Sample {number}"><h3>Prompt {number}</h3>{_pre(sample.get("prompt"), "")}'
        f'<div class="answers"><section><h3>Before training</h3>{_pre(sample.get("before"), "not asked")}</section>'
        f'<section class="after"><h3>After training</h3>{_pre(sample.get("after"), later)}</section></div></article>'
        for number, sample in enumerate(samples, start=1)
    )
    return f'<section aria-labelledby="samples"><h2 id="samples">Samples</h2>{cards}</section>'


def _read_curve(curves: Mapping[str, Any], key: str) -> list[Point]:
    """Return a curve's points; none where it does not go with its steps."""
    steps, values = curves.get("steps") or [], curves.get(key) or []
    if len(steps) != len(values):
        return []
    return [
        (float(step), float(value)) for step, value in takewhile(lambda pair: all(map(_is_number, pair)), zip(steps, values, strict=True))
    ]


def _is_number(value: object) -> bool:
    return isinstance(value, int | float)


def _pre(text: object, otherwise: str) -> str:
    if not isinstance(text, str):
        return f'<p class="muted">{otherwise}</p>'
    return f"<pre>{escape(text)}</pre>" if text.strip() else '<p class="muted">(an empty answer)</p>'
