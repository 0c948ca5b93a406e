"""One run on the screen: where it stands, how far it is, its loss, its memory, its Events."""

from collections.abc import Sequence
from datetime import datetime

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from finetune_api.quantity import parse_quantity
from finetune_api.status import ConditionType
from finetune_cli.curve import render_plot
from finetune_cli.next_steps import build_next_steps
from finetune_cli.tables import build_event_table, count_gpus, show_phase
from finetune_cli.words import PHASE_STYLES, printable, say_age, say_bytes, say_count, say_duration, say_number
from finetune_sdk.run import Run, RunEvent

PLOT_HEIGHT = 10


def build_run_view(run: Run, events: Sequence[RunEvent], now: datetime, width: int, *, most_events: int = 6) -> RenderableType:
    """Return the view of a run for a terminal of ``width`` characters."""
    style = PHASE_STYLES[run.phase] if run.phase else "dim"
    parts: list[RenderableType] = [_heading(run, now)]
    if run.message:
        parts.append(Text(printable(run.message), style="red" if run.phase == "Failed" else ""))
    accepted = run.condition(ConditionType.ACCEPTED)
    if accepted is not None and accepted.status == "True" and accepted.message and not run.finished:
        parts.append(Text(printable(accepted.message), style="dim"))
    parts += [Text(), _progress(run, width - 4), Text(), _figures(run, now, max(1, min(3, (width - 4) // 27)))]
    history = run.status.metrics.history if run.status.metrics else []
    if len(history) > 1:
        parts += [Text(), Text("loss", style="bold"), render_plot([[(each.step, each.loss) for each in history]], width - 4, PLOT_HEIGHT)]
    for artifact in run.status.artifacts:
        parts += [
            Text(),
            Text.assemble((f"{artifact.name} ", "bold"), artifact.uri, f"  {say_bytes(artifact.size_bytes)}\n", (artifact.digest, "dim")),
        ]
    if steps := build_next_steps(run):
        parts += [Text(), Text("next", style="bold"), *(Text(printable(step), overflow="fold") for step in steps)]
    if events:
        parts += [Text(), build_event_table(events[-most_events:], now)]
    return Panel(
        Group(*parts), title=Text(f"{run.namespace}/{run.name}", style="bold"), title_align="left", border_style=style, width=width
    )


def _heading(run: Run, now: datetime) -> Text:
    phase = show_phase(run)
    phase.stylize("bold")
    reason = f" ({run.reason})" if run.reason and run.reason != str(run.phase) else ""
    queue = run.get("spec.scheduling.queueName")
    return Text.assemble(
        phase,
        f"{reason}   created {say_age(run.created, now)} ago",
        f"   queue {queue}" if queue else "",
        f"   restarts {run.status.restarts}" if run.status.restarts else "",
        overflow="fold",
    )


def _progress(run: Run, width: int) -> RenderableType:
    progress = run.status.progress
    if progress is None:
        return Text("no step yet", style="dim")
    words = f"step {progress.step} of {progress.total_steps}   epoch {progress.epoch:.2f}"
    if progress.estimated_remaining_seconds is not None and not run.finished:
        words += f"   {say_duration(progress.estimated_remaining_seconds)} to go"
    style = PHASE_STYLES[run.phase] if run.phase else "dim"
    room = max(10, min(40, width - len(words) - 8))
    bar = ProgressBar(total=100, completed=progress.percentage, width=room, complete_style=style, finished_style=style)
    line = Table.grid(padding=(0, 1))
    line.add_row(bar, f"{progress.percentage}%", Text(words))
    return line


def _figures(run: Run, now: datetime, columns: int) -> RenderableType:
    status = run.status
    metrics = status.metrics
    cells: list[tuple[str, str]] = []
    if metrics is not None:
        cells += [
            ("loss", say_number(metrics.loss)),
            ("held-out loss", say_number(metrics.eval_loss)),
            ("of the base", say_number(metrics.base_eval_loss)),
            ("learning rate", say_number(metrics.learning_rate, 3)),
            ("gradient norm", say_number(metrics.grad_norm, 3)),
            ("tokens/s", say_count(metrics.tokens_per_second)),
            ("GPU memory, peak", say_bytes(metrics.gpu_memory_peak_bytes) if metrics.gpu_memory_peak_bytes else ""),
            ("asked for", _asked_memory(run) if metrics.gpu_memory_peak_bytes else ""),
        ]
    if status.dataset is not None:
        cells.append(("examples", say_count(status.dataset.examples)))
    cells += [
        ("GPUs", str(count_gpus(run))),
        ("node", status.pod.node_name or "" if status.pod else ""),
        ("ran for", _ran_for(run, now)),
        ("model cache", _model_cache(run)),
    ]
    known = [(name, value) for name, value in cells if value]
    grid = Table.grid(padding=(0, 3, 0, 0))
    for _ in range(columns):
        grid.add_column(min_width=24)
    for start in range(0, len(known), columns):
        row = known[start : start + columns]
        grid.add_row(*(Text.assemble((f"{name} ", "dim"), (value, "bold")) for name, value in row))
    return grid


def _model_cache(run: Run) -> str:
    cache = run.status.model_cache
    if cache is None:
        return ""
    return f"{cache.models} models, {say_bytes(cache.used_bytes)}; {say_bytes(cache.free_bytes)} free of {say_bytes(cache.total_bytes)}"


def _asked_memory(run: Run) -> str:
    asked = run.get("spec.resources.minGpuMemory")
    return say_bytes(float(parse_quantity(str(asked)))) if asked else ""


def _ran_for(run: Run, now: datetime) -> str:
    status = run.status
    if status.start_time is None:
        return ""
    return say_duration(((status.completion_time or now) - status.start_time).total_seconds())


def describe_change(run: Run, before: Run | None) -> str | None:
    """Return a line about what changed, for where there is no terminal; None where nothing worth a line did."""
    same = before is not None and (before.phase, before.reason, before.message) == (run.phase, run.reason, run.message)
    progress = run.status.progress
    if same and before is not None and (progress is None or before.status.progress == progress):
        return None
    line = f"{run.phase or 'New'}"
    if not same:
        line += f" {run.reason}: {printable(run.message)}" if run.reason else ""
    if progress is not None and run.phase == "Running":
        loss = say_number(run.status.metrics.loss) if run.status.metrics else ""
        line += f" {progress.percentage}% step {progress.step}/{progress.total_steps}" + (f" loss {loss}" if loss else "")
    return line
