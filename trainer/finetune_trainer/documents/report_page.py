"""``report.html``: one file that opens anywhere, without a network, in light and dark, by keyboard and screen reader.

Its content comes from data and models, which are input from outside: everything is escaped, and the page's own policy forbids scripts.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from html import escape
from typing import Any, Final

from finetune_api.base import format_time
from finetune_api.drawing.charts import Chart, Line, choose_memory_unit, format_bytes, format_number, format_rate, render_chart, smooth
from finetune_api.drawing.style import STYLE
from finetune_api.spec.adapter import RANK_TYPES
from finetune_trainer.documents.facts import RunFacts, extract_series
from finetune_trainer.evaluation.results import Sample

_SMOOTHED_FROM: Final = 40
"""Points from which on a loss curve is drawn smoothed, over the raw one."""
_TEXT_MAX: Final = 6000
_UNPRINTABLE: Final = dict.fromkeys([*range(9), *range(11, 32), 127], "�")
_HIDDEN: Final = frozenset({"schemaVersion", "reporting", "workDir"})


def build_report_page(facts: RunFacts) -> str:
    """Return the page."""
    job = facts.config.job
    sections = [
        '<section aria-labelledby="curves"><h2 id="curves">Training</h2><div class="charts">'
        + "".join(_render_charts(facts))
        + "</div></section>",
        _render_tasks(facts),
        _render_harness(facts),
        _render_samples(facts),
        _render_details(facts),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<title>{escape(job.name)} · fine-tuning report</title><style>{STYLE}</style></head><body>"
        '<a class="skip" href="#main">Skip to the figures</a>'
        f"<header><h1>{escape(job.name)}</h1>{_render_lead(facts)}</header>"
        f'<main id="main">{_render_tiles(facts)}{"".join(sections)}</main>'
        f"<footer>FineTuneJob {escape(job.namespace)}/{escape(job.name)}, UID {escape(job.uid)}, attempt {facts.config.attempt}. "
        f"Written {escape(format_time(facts.now))}.</footer></body></html>\n"
    )


def describe_method(facts: RunFacts) -> str:
    """Return the method in a few words: `LoRA (r 16), nf4 base`."""
    method = facts.config.method
    rank = f" (r {method.adapter.r})" if method.adapter.type in RANK_TYPES else ""
    base = "an unquantised base" if method.quantization.type == "none" else f"an {method.quantization.type} base"
    return f"{method.objective.upper()}, {method.adapter.type}{rank} on {base}"


def _render_lead(facts: RunFacts) -> str:
    config = facts.config
    return (
        f'<p class="lead">{escape(describe_method(facts))}: <code>{escape(config.model.uri)}</code> on '
        f"<code>{escape(config.dataset.uri)}</code>, {facts.dataset.examples:,} examples, on {escape(facts.device)}.</p>"
    )


def _render_tiles(facts: RunFacts) -> str:
    metrics = facts.metrics
    tiles = [
        _compare("Held-out loss", metrics.base_eval_loss, metrics.eval_loss),
        _compare("Held-out perplexity", metrics.base_perplexity, metrics.perplexity),
        _tile("Last training loss", None if metrics.loss is None else format_number(metrics.loss)),
        _tile("Steps", f"{facts.steps:,}", f"{metrics.tokens_seen:,} tokens" if metrics.tokens_seen else ""),
        _tile("Throughput", None if metrics.tokens_per_second is None else f"{metrics.tokens_per_second:,.0f}", "tokens a second"),
        _tile("Peak GPU memory", None if metrics.gpu_memory_peak_bytes is None else format_bytes(metrics.gpu_memory_peak_bytes)),
    ]
    return f'<dl class="tiles">{"".join(tiles)}</dl>'


def _tile(name: str, value: str | None, sub: str = "") -> str:
    if value is None:
        return ""
    more = f'<span class="sub">{sub}</span>' if sub else ""
    return f'<div class="tile"><dt>{escape(name)}</dt><dd>{escape(value)}{more}</dd></div>'


def _compare(name: str, before: float | None, after: float | None) -> str:
    if after is None:
        return ""
    sub = ""
    if before:
        change = 100 * (after - before) / abs(before)
        kind = "good" if change < 0 else "bad" if change > 0 else "muted"
        sub = f'from {format_number(before)} before training <span class="{kind}">({change:+.1f} %)</span>'
    return _tile(name, format_number(after), sub)


def _render_charts(facts: RunFacts) -> Iterator[str]:
    loss = extract_series(facts.history, "loss")
    held_out = Line("held-out loss", extract_series(facts.history, "eval_loss"), "b", dots=True)
    lines = [Line("training loss", loss, dots=len(loss) <= 12), held_out]
    if len(loss) >= _SMOOTHED_FROM:
        lines = [Line("training loss, each logged step", loss, "raw"), Line("training loss, smoothed", smooth(loss)), held_out]
    yield render_chart(Chart("loss", "Loss (nats a token)", lines, format_number, height=320, wide=True))
    memory = extract_series(facts.history, "memory_bytes")
    unit, size = choose_memory_unit(max((value for _, value in memory), default=0))
    held = "GPU memory held" if facts.config.device.gpus and facts.metrics.gpu_memory_peak_bytes else "Memory of the process"
    for key, title, points in (
        ("rate", "Learning rate", extract_series(facts.history, "learning_rate")),
        ("norm", "Gradient norm, before clipping", extract_series(facts.history, "grad_norm")),
        ("speed", "Throughput (tokens a second)", extract_series(facts.history, "tokens_per_second")),
        ("memory", f"{held} ({unit})", [(step, value / size) for step, value in memory]),
    ):
        form = format_rate if key == "rate" else format_number
        yield render_chart(Chart(key, title, [Line(title, points)], form, from_zero=True))


def _render_tasks(facts: RunFacts) -> str:
    scores = facts.evaluation.score_tasks()
    if not scores:
        return ""
    rows = "".join(
        f'<tr><th scope="row">{escape(score.name)}</th><td>{_meter(score.base_score, "meter base")}</td>'
        f"<td>{_meter(score.score, 'meter')}</td><td>{score.examples:,}</td></tr>"
        for score in scores
    )
    return (
        '<section aria-labelledby="tasks"><h2 id="tasks">Tasks</h2><div class="card scroll" '
        'tabindex="0" role="region" aria-label="Scores of tasks">'
        '<table><thead><tr><th scope="col">Task</th><th scope="col">Before training</th><th scope="col">After training</th>'
        f'<th scope="col">Prompts</th></tr></thead><tbody>{rows}</tbody></table></div></section>'
    )


def _render_harness(facts: RunFacts) -> str:
    scores = facts.evaluation.score_harness()
    if not scores:
        return ""
    rows = "".join(
        f'<tr><th scope="row">{escape(score.name)}</th><td>{escape(score.metric)}</td><td>{_figure(score.base_score)}</td>'
        f"<td>{_figure(score.score)}</td><td>{score.examples:,}</td></tr>"
        for score in scores
    )
    head = "".join(f'<th scope="col">{name}</th>' for name in ("Task", "Metric", "Before training", "After training", "Questions"))
    return (
        '<section aria-labelledby="harness"><h2 id="harness">lm-evaluation-harness</h2><div class="card scroll" '
        f'tabindex="0" role="region" aria-label="Scores of lm-evaluation-harness"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div></section>"
    )


def _figure(value: float | None) -> str:
    return "–" if value is None else format_number(value)


def _meter(share: float | None, kind: str) -> str:
    if share is None:
        return "–"
    return f'<span class="{kind}" aria-hidden="true"><span style="width:{100 * share:.1f}%"></span></span>{100 * share:.1f} %'


def _render_samples(facts: RunFacts) -> str:
    if not facts.evaluation.samples:
        return ""
    cards = "".join(_render_sample(number, sample) for number, sample in enumerate(facts.evaluation.samples, start=1))
    generation = facts.config.evaluation.generation
    how = "greedy" if generation.temperature == 0 else f"temperature {generation.temperature:g}"
    if generation.num_beams > 1:
        how = f"{generation.num_beams} beams"
    return (
        '<section aria-labelledby="samples"><h2 id="samples">Answers before and after</h2>'
        f'<p class="muted">Generated {how}, at most {generation.max_new_tokens} tokens each.</p>{cards}</section>'
    )


def _render_sample(number: int, sample: Sample) -> str:
    answers = [("Before training", sample.before, ""), ("After training", sample.after, ' class="after"')]
    if sample.expected is not None:
        answers.append(("In the data", sample.expected, ""))
    boxes = "".join(f"<section{kind}><h3>{name}</h3>{_pre(text)}</section>" for name, text, kind in answers)
    return (
        f'<article class="card sample" aria-label="Sample {number}"><h3>Prompt {number}</h3>{_pre(sample.prompt)}'
        f'<div class="answers">{boxes}</div></article>'
    )


def _pre(text: str | None) -> str:
    if text is None:
        return '<p class="muted">not asked</p>'
    if not text.strip():
        return '<p class="muted">(an empty answer)</p>'
    cut = text if len(text) <= _TEXT_MAX else text[:_TEXT_MAX] + "…"
    return f"<pre>{escape(cut.translate(_UNPRINTABLE))}</pre>"


def _render_details(facts: RunFacts) -> str:
    counts = facts.dataset
    data = [
        ("Examples", f"{counts.examples:,}"),
        ("Held out", f"{counts.eval_examples:,}"),
        ("Dropped", f"{counts.dropped:,}"),
        ("Truncated", f"{counts.truncated:,}"),
        ("Base model's revision", facts.base_revision),
        ("Base model's licence", facts.base_license),
        *facts.sources.items(),
    ]
    settings = list(flatten(facts.config.model_dump(mode="json", exclude_none=True)))
    return (
        '<section aria-labelledby="details"><h2 id="details">Data, settings and versions</h2><div class="columns">'
        f'<div class="card">{_table("Data and base model", data)}{_table("Versions", facts.versions.items(), gap=True)}</div>'
        f'<div class="card">{_table("Settings", settings)}</div></div></section>'
    )


def _table(title: str, rows: Iterable[tuple[str, str | None]], *, gap: bool = False) -> str:
    body = "".join(f'<tr><th scope="row">{escape(name)}</th><td>{escape(value)}</td></tr>' for name, value in rows if value)
    space = ' style="margin-top:22px"' if gap else ""
    return f'<h3{space}>{escape(title)}</h3><table aria-label="{escape(title)}"><tbody>{body}</tbody></table>'


def flatten(value: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, str]]:
    """Yield each setting below ``value`` with its path, `training.learningRate`; numbers as people write them."""
    for name, item in value.items():
        if name in _HIDDEN or item in ({}, []):
            continue
        at = f"{path}.{name}" if path else name
        if isinstance(item, Mapping):
            yield from flatten(item, at)
        elif isinstance(item, list):
            for number, part in enumerate(item):
                if isinstance(part, Mapping):
                    yield from flatten(part, f"{at}[{number}]")
                else:
                    yield f"{at}[{number}]", str(part)
        elif isinstance(item, bool):
            yield at, "yes" if item else "no"
        elif isinstance(item, float) and math.isfinite(item):
            yield at, format_number(item)
        else:
            yield at, str(item)
