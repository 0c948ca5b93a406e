"""The page's markup: pure functions of what the store holds. Everything from outside is escaped; no style or script stands in it."""

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from html import escape
from typing import Any, Final
from urllib.parse import quote, urlencode

from finetune_api.drawing.charts import format_bytes, format_number
from finetune_api.resource import write_out
from finetune_api.status import Phase
from finetune_operator.objects import Object, condition_of, name_of, namespace_of, parse_time
from finetune_operator.page.curves import render_charts, render_samples

ROWS: Final = 100
"""Runs on one page."""
_MARKS: Final = {
    "Pending": "○", "Queued": "◔", "Starting": "◑", "Running": "▶", "Suspended": "⏸", "Succeeded": "✓", "Failed": "✗",
}  # fmt: skip


def render_document(title: str, body: str, viewer: str = "") -> str:
    """Return a whole page around ``body``, which is markup."""
    who = (
        f'<form class="who" method="post" action="/sign-out"><span>{escape(viewer)}</span> <button>Sign out</button></form>'
        if viewer
        else ""
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">'
        f'<title>{escape(title)} · fine-tuning</title><link rel="icon" href="data:,"><link rel="stylesheet" href="/static/page.css">'
        '<script src="/static/page.js" defer></script></head><body><a class="skip" href="#content">To the content</a>'
        f'<header class="bar"><a class="home" href="/">Fine-tuning</a>{who}</header>'
        f'<main id="content" tabindex="-1">{body}</main><footer><span id="updated"></span></footer>'
        '<div id="said" class="said" role="status" aria-live="polite"></div></body></html>'
    )


def render_sign_in(fault: str = "") -> str:
    """Return the form that takes a token."""
    alert = f'<p class="fault" role="alert">{escape(fault)}</p>' if fault else ""
    return (
        f'<section class="card sign-in"><h1>Sign in</h1>{alert}<form method="post" action="/sign-in">'
        '<label for="token">Token</label><input id="token" name="token" type="password" autocomplete="off" required autofocus '
        'aria-describedby="how"><button class="main">Sign in</button></form>'
        '<div id="how"><p class="muted">The page shows what the owner of the token may read. Make one with kubectl:</p>'
        "<pre>kubectl create token NAME --namespace NAMESPACE \\\n  --audience finetune.dev/page --duration 8h</pre></div></section>"
    )


def render_message(title: str, text: str) -> str:
    """Return a page's content that is a message only."""
    return f'<section class="card"><h1>{escape(title)}</h1><p>{escape(text)}</p><p><a href="/">To all runs</a></p></section>'


def render_runs(
    bodies: Sequence[Object], namespaces: Sequence[str], query: Mapping[str, str], now: datetime, *, unasked: int, replica: str
) -> str:
    """Return the overview of ``bodies``, the runs that the viewer may list; ``namespaces`` are those to choose from."""
    namespace, phase = query.get("namespace", ""), query.get("phase", "")
    shown = [body for body in bodies if namespace in ("", namespace_of(body))]
    phases = Counter(_phase_of(body) for body in shown)
    gpus = sum(_number(_status(body).get("gpus")) for body in shown if _phase_of(body) == "Running")
    tiles = [
        ("Running", str(phases["Running"])),
        ("Waiting", str(phases["Queued"] + phases["Pending"] + phases["Starting"])),
        ("GPUs in use", f"{gpus:g}"),
        ("Succeeded", str(phases["Succeeded"])),
        ("Failed", str(phases["Failed"])),
    ]
    listed = sorted((body for body in shown if phase in ("", _phase_of(body))), key=_order)
    summary = f"{phases['Running']} running, {phases['Queued']} queued, {phases['Failed']} failed"
    note = (
        f'<p class="muted">{unasked} more namespaces were not looked at: name one in the address, as in ?namespace=team-a.</p>'
        if unasked
        else ""
    )
    return (
        f'<div id="live" data-summary="{escape(summary)}"><h1>Runs</h1>{_render_tiles(tiles)}'
        f"{_render_filter(namespaces, namespace, phase)}{note}"
        f'{_render_table(listed, query, now)}<div class="columns">{_render_queue(shown, now)}{_render_gpus(shown)}</div>'
        f'<p class="muted by">Answered by {escape(replica)}.</p></div>'
    )


def render_run(body: Object, replica: str) -> str:
    """Return all about one run."""
    status, spec = _status(body), write_out(body.get("spec") or {})
    progress, metrics = _part(status, "progress"), _part(status, "metrics")
    phase = _phase_of(body)
    verdict = condition_of(body, "Succeeded") or {}
    base = metrics.get("baseEvalLoss")
    tiles = [
        ("Progress", f"{_number(progress.get('percentage')):g} %" if progress else "–"),
        ("Step", f"{_number(progress.get('step')):,.0f} / {_number(progress.get('totalSteps')):,.0f}" if progress else "–"),
        ("Time left", _duration(progress.get("estimatedRemainingSeconds")) if phase == "Running" else "–"),
        ("Loss", _figure(metrics.get("loss"))),
        ("Held-out loss", _figure(metrics.get("evalLoss"))),
        ("Held-out loss, before", _figure(base)),
        ("Tokens a second", _figure(metrics.get("tokensPerSecond"))),
        ("GPU memory, peak", format_bytes(_number(metrics["gpuMemoryPeakBytes"])) if metrics.get("gpuMemoryPeakBytes") else "–"),
        ("GPU hours", f"{_number(status.get('gpuSeconds')) / 3600:.2f}"),
        ("Restarts", f"{_number(status.get('restarts')):g}"),
    ]
    queue, method = _part(status, "queue"), _part(spec, "method")
    facts = [
        ("Model", _part(spec, "model").get("uri")),
        ("Dataset", _part(spec, "dataset").get("uri")),
        ("Objective", method.get("objective")),
        ("Adapter", _part(method, "adapter").get("type")),
        ("Quantisation", _part(method, "quantization").get("type")),
        ("GPUs", status.get("gpus")),
        ("Queue", f"{queue['name']}, place {queue['position']}" if queue.get("position") else queue.get("name")),
        ("Node", _part(status, "pod").get("nodeName")),
        ("Begun", status.get("startTime")),
        ("Ended", status.get("completionTime")),
    ]
    details = "".join(f'<tr><th scope="row">{escape(key)}</th><td>{escape(str(value))}</td></tr>' for key, value in facts if value)
    summary = f"{name_of(body)} is {phase}"
    return (
        f'<div id="live" data-summary="{escape(summary)}"><nav aria-label="Where"><a href="/">Runs</a> / '
        f'<a href="/?{escape(urlencode({"namespace": namespace_of(body)}))}">{escape(namespace_of(body))}</a></nav>'
        f"<h1>{escape(name_of(body))} {_badge(phase)}</h1>"
        f'<p class="lead">{escape(": ".join(str(verdict[key]) for key in ("reason", "message") if verdict.get(key)))}</p>'
        f'{_meter(progress)}{_render_tiles(tiles)}<h2>Curves</h2><div class="charts">{"".join(render_charts(metrics))}</div>'
        f"{render_samples(metrics, has_ended=phase in ('Succeeded', 'Failed'))}{_render_tasks(metrics)}"
        f"{_render_artifacts(status)}"
        f'<h2>Run</h2><div class="card scroll" tabindex="0" role="region" aria-label="Run"><table><tbody>{details}</tbody></table></div>'
        f'<p class="muted by">Answered by {escape(replica)}.</p></div>'
    )


def _render_tiles(tiles: Sequence[tuple[str, str]]) -> str:
    return (
        '<dl class="tiles">'
        + "".join(f'<div class="tile"><dt>{escape(key)}</dt><dd>{escape(value)}</dd></div>' for key, value in tiles)
        + "</dl>"
    )


def _render_filter(namespaces: Sequence[str], namespace: str, phase: str) -> str:
    def options(values: Sequence[str], chosen: str) -> str:
        return '<option value="">all</option>' + "".join(
            f"<option{' selected' if each == chosen else ''}>{escape(each)}</option>" for each in values
        )

    return (
        '<form class="filter" method="get" action="/"><label>Namespace '
        f'<select id="namespace" name="namespace">{options(namespaces, namespace)}</select></label>'
        f'<label>Phase <select id="phase" name="phase">{options([each.value for each in Phase], phase)}</select></label>'
        '<button id="filter">Show</button></form>'
    )


def _render_table(bodies: Sequence[Object], query: Mapping[str, str], now: datetime) -> str:
    if not bodies:
        return '<p class="card">There are no runs here that you may see.</p>'
    number = int(text) if (text := query.get("page", "")).isdecimal() and len(text) < 7 else 1
    pages = -(-len(bodies) // ROWS)
    number = min(max(number, 1), pages)
    rows = "".join(_render_row(body, now) for body in bodies[(number - 1) * ROWS : number * ROWS])
    links = []
    for target, text in ((number - 1, "Newer"), (number + 1, "Older")):
        if 1 <= target <= pages:
            words = {key: query[key] for key in ("namespace", "phase") if query.get(key)}
            links.append(f'<a href="/?{escape(urlencode({**words, "page": target}))}">{text}</a>')
    pager = f'<nav class="pager" aria-label="Pages">Page {number} of {pages} {" ".join(links)}</nav>' if pages > 1 else ""
    head = "".join(
        f'<th scope="col">{each}</th>' for each in ("Run", "Namespace", "Phase", "Progress", "Loss", "GPUs", "Queue", "Left", "Age")
    )
    return (
        '<div class="card scroll all" tabindex="0" role="region" aria-label="Runs"><table class="runs">'
        f"<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>{pager}"
    )


def _render_row(body: Object, now: datetime) -> str:
    status = _status(body)
    phase, progress = _phase_of(body), _part(status, "progress")
    cells = [
        escape(namespace_of(body)),
        _badge(phase),
        _meter(progress),
        escape(_figure(_part(status, "metrics").get("loss"))),
        f"{_number(status.get('gpus')):g}",
        escape(str(_part(status, "queue").get("name", "–"))),
        escape(_duration(progress.get("estimatedRemainingSeconds"))) if phase == "Running" else "–",
        escape(_age(body["metadata"].get("creationTimestamp"), now)),
    ]
    link = f'<a href="{_path(body)}">{escape(name_of(body))}</a>'
    return f'<tr><th scope="row">{link}</th>' + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"


def _render_queue(bodies: Sequence[Object], now: datetime) -> str:
    waiting = [body for body in bodies if _phase_of(body) == "Queued"]
    waiting.sort(key=lambda body: (namespace_of(body), str(_part(_status(body), "queue").get("name")), _place(body)))
    rows = "".join(
        f'<tr><th scope="row"><a href="{_path(body)}">{escape(name_of(body))}</a></th>'
        f"<td>{escape(namespace_of(body))}/{escape(str(_part(_status(body), 'queue').get('name', '–')))}</td>"
        f"<td>{_place(body) if _place(body) < 10**9 else '–'}</td><td>{escape(_age(_status(body).get('queuedSince'), now))}</td></tr>"
        for body in waiting[:ROWS]
    )
    head = "".join(f'<th scope="col">{each}</th>' for each in ("Run", "Queue", "Place", "Waits"))
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>" if rows else '<p class="muted">Nothing waits.</p>'
    return f'<section class="card"><h2>Queue</h2>{table}</section>'


def _render_gpus(bodies: Sequence[Object]) -> str:
    used: Counter[tuple[str, str]] = Counter()
    for body in bodies:
        if _phase_of(body) == "Running" and (count := int(_number(_status(body).get("gpus")))):
            resource = _part(body.get("spec") or {}, "resources").get("gpuResource") or "nvidia.com/gpu"
            used[namespace_of(body), str(resource)] += count
    rows = "".join(
        f'<tr><th scope="row">{escape(namespace)}</th><td>{escape(resource)}</td><td>{count}</td></tr>'
        for (namespace, resource), count in sorted(used.items())
    )
    head = "".join(f'<th scope="col">{each}</th>' for each in ("Namespace", "Resource", "In use"))
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>" if rows else '<p class="muted">No GPU is in use.</p>'
    return f'<section class="card"><h2>GPUs</h2>{table}</section>'


def _render_tasks(metrics: Mapping[str, Any]) -> str:
    rows = "".join(
        f'<tr><th scope="row">{escape(str(each.get("name")))}</th>'
        f"<td>{_figure(each.get('baseScore'))}</td><td>{_figure(each.get('score'))}</td></tr>"
        for each in metrics.get("tasks") or ()
    )
    head = '<th scope="col">Task</th><th scope="col">Before</th><th scope="col">After</th>'
    return f'<h2>Tasks</h2><div class="card"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>' if rows else ""


def _render_artifacts(status: Mapping[str, Any]) -> str:
    rows = "".join(
        f'<tr><th scope="row">{escape(str(each.get("name")))}</th><td>{escape(str(each.get("uri")))}<br>'
        f"<code>{escape(str(each.get('digest', '')))}</code></td><td>{format_bytes(_number(each.get('sizeBytes')))}</td></tr>"
        for each in status.get("artifacts") or ()
    )
    head = '<th scope="col">Artifact</th><th scope="col">Where</th><th scope="col">Size</th>'
    return f'<h2>Artifacts</h2><div class="card"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>' if rows else ""


def _badge(phase: str) -> str:
    return f'<span class="phase {escape(phase.lower())}"><span aria-hidden="true">{_MARKS.get(phase, "○")}</span> {escape(phase)}</span>'


def _meter(progress: Mapping[str, Any]) -> str:
    if not progress:
        return '<span class="muted">–</span>'
    percentage = _number(progress.get("percentage"))
    return f'<span class="bar-cell"><progress value="{percentage:g}" max="100" aria-label="Progress"></progress> {percentage:g} %</span>'


def _path(body: Object) -> str:
    return escape(f"/runs/{quote(namespace_of(body), safe='')}/{quote(name_of(body), safe='')}")


def _order(body: Object) -> tuple[int, float]:
    first = {"Running": 0, "Starting": 1, "Queued": 2, "Pending": 2, "Suspended": 3}.get(_phase_of(body), 4)
    created = parse_time(body["metadata"].get("creationTimestamp"))
    return first, -created.timestamp() if created is not None else 0.0


def _place(body: Object) -> int:
    return int(_number(_part(_status(body), "queue").get("position")) or 10**9)


def _status(body: Object) -> Mapping[str, Any]:
    return _part(body, "status")


def _part(source: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    part = source.get(key)
    return part if isinstance(part, Mapping) else {}


def _phase_of(body: Object) -> str:
    return str(_status(body).get("phase") or "Pending")


def _number(value: object) -> float:
    return value if isinstance(value, int | float) else 0.0


def _figure(value: object) -> str:
    return format_number(value) if isinstance(value, int | float) else "–"


def _age(since: str | None, now: datetime) -> str:
    time = parse_time(since)
    return _duration((now - time).total_seconds()) if time is not None else "–"


def _duration(seconds: object) -> str:
    """Return a time span for people, in its two largest units."""
    if not isinstance(seconds, int | float):
        return "–"
    left = max(0, int(seconds))
    parts: list[str] = []
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1)):
        count, left = divmod(left, size)
        if count:
            parts.append(f"{count} {unit}")
    return " ".join(parts[:2]) or "0 s"
