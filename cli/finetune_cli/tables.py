"""Tables about runs, GPUs and artifacts: pure functions of what was read."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

from rich.table import Table
from rich.text import Text

from finetune_cli.output import build_table
from finetune_cli.words import PHASE_STYLES, printable, say_age, say_bytes, say_count, say_duration, say_number
from finetune_sdk.gpus import GpuReport
from finetune_sdk.run import Run, RunEvent


def show_phase(run: Run) -> Text:
    """Return the phase in its colour; `New` before the operator has seen the run."""
    return Text(run.phase, style=PHASE_STYLES[run.phase]) if run.phase else Text("New", style="dim")


def build_run_table(runs: Sequence[Run], now: datetime, *, namespaces: bool) -> Table:
    """Return a line for each run."""
    titles = ["NAME", "PHASE", "PROGRESS", "LOSS", "EVAL", "GPUS", "QUEUE", "ETA", "RESTARTS", "AGE"]
    rows: list[list[str | Text]] = []
    for run in runs:
        status = run.status
        progress, metrics = status.progress, status.metrics
        remaining = progress.estimated_remaining_seconds if progress and not run.finished else None
        rows.append(
            [
                *([run.namespace] if namespaces else []),
                run.name,
                show_phase(run),
                f"{progress.percentage}%" if progress else "",
                say_number(metrics.loss if metrics else None),
                say_number(metrics.eval_loss if metrics else None),
                str(count_gpus(run)),
                str(run.get("spec.scheduling.queueName") or ""),
                "" if remaining is None else say_duration(remaining),
                str(status.restarts),
                say_age(run.created, now),
            ]
        )
    return build_table([*(["NAMESPACE"] if namespaces else []), *titles], rows, right=("PROGRESS", "LOSS", "EVAL", "GPUS", "RESTARTS"))


def count_gpus(run: Run) -> int:
    """Return the GPUs that the run asks for, on all nodes."""
    resources = run.get("spec.resources") or {}
    return int(resources.get("gpus", 0)) * int(resources.get("nodes", 1))


def build_event_table(events: Sequence[RunEvent], now: datetime) -> Table:
    """Return a line for each Event, newest last."""
    rows: list[list[str | Text]] = [
        [
            say_age(event.time, now),
            Text(event.reason, style="yellow" if event.kind == "Warning" else ""),
            printable(event.message) + (f" (x{event.count})" if event.count > 1 else ""),
        ]
        for event in events
    ]
    return build_table(("AGE", "EVENT", "MESSAGE"), rows, fold="MESSAGE")


def build_artifact_table(run: Run) -> Table:
    """Return a line for each artifact."""
    rows = [[each.name, each.format, say_bytes(each.size_bytes), each.digest[:19], each.uri] for each in run.status.artifacts]
    return build_table(("NAME", "FORMAT", "SIZE", "DIGEST", "URI"), rows, right=("SIZE",))


def build_gpu_tables(report: GpuReport) -> tuple[Table, Table]:
    """Return who holds what, and who waits."""
    held: list[list[str | Text]] = []
    for node in report.nodes:
        holders = ", ".join(f"{each.namespace}/{each.job or each.pod}{f' x{each.gpus}' if each.gpus > 1 else ''}" for each in node.holders)
        memory = say_bytes(node.memory_bytes) if node.memory_bytes else ""
        free = Text(str(node.free), style="green" if node.free else "dim") if node.schedulable else Text("unavailable", style="yellow")
        held.append([node.node, node.product or "(unlabelled)", node.resource, memory, str(node.total), str(node.used), free, holders])
    waiting: list[list[str | Text]] = [
        [each.queue or "(none)", f"{each.namespace}/{each.name}", str(each.gpus), each.resource, each.phase, printable(each.message)]
        for each in report.waiting
    ]
    return (
        build_table(
            ("NODE", "PRODUCT", "RESOURCE", "MEMORY", "GPUS", "USED", "FREE", "HELD BY"),
            held,
            right=("MEMORY", "GPUS", "USED", "FREE"),
            fold="HELD BY",
        ),
        build_table(("QUEUE", "WAITING", "GPUS", "RESOURCE", "PHASE", "WHY"), waiting, right=("GPUS",), fold="WHY"),
    )


_COMPARED: Final = (
    "model.uri",
    "dataset.uri",
    "method.objective",
    "method.adapter.type",
    "method.adapter.r",
    "method.quantization.type",
    "training.epochs",
    "training.learningRate",
    "training.perDeviceBatchSize",
    "training.gradientAccumulationSteps",
    "training.maxLength",
)
"""Settings that a comparison always shows; others only where they differ."""


def build_comparison(runs: Sequence[Run]) -> Table:
    """Return a column for each run: how it ended, and every setting that differs."""
    settings = [_flatten(run.settings) for run in runs]
    paths = sorted({path for each in settings for path in each})
    differing = [
        path for path in paths if len({str(each.get(path)) for each in settings}) > 1 and not path.startswith(("output.", "suspend"))
    ]
    rows: list[list[str | Text]] = [[Text("phase", style="bold"), *(show_phase(run) for run in runs)]]
    figures: list[tuple[str, list[str]]] = [
        ("loss", [say_number(_metric(run, "loss")) for run in runs]),
        ("held-out loss", [say_number(_metric(run, "eval_loss")) for run in runs]),
        ("… of the base", [say_number(_metric(run, "base_eval_loss")) for run in runs]),
        ("steps", [f"{run.status.progress.step}/{run.status.progress.total_steps}" if run.status.progress else "" for run in runs]),
        ("tokens seen", [say_count(_metric(run, "tokens_seen")) for run in runs]),
        ("tokens/s", [say_count(_metric(run, "tokens_per_second")) for run in runs]),
        ("GPU memory, peak", [say_bytes(peak) if (peak := _metric(run, "gpu_memory_peak_bytes")) else "" for run in runs]),
        ("GPU time", [say_duration(run.status.gpu_seconds) if run.status.gpu_seconds else "" for run in runs]),
        ("restarts", [str(run.status.restarts) for run in runs]),
    ]
    best = _best([_metric(run, "eval_loss") for run in runs])
    for name, values in figures:
        cells: list[str | Text] = [
            Text(value, style="green") if name == "held-out loss" and index == best else value for index, value in enumerate(values)
        ]
        if any(values):
            rows.append([Text(name, style="bold"), *cells])
    for path in [*_COMPARED, *(path for path in differing if path not in _COMPARED)]:
        values = [_show(each.get(path)) for each in settings]
        if any(values):
            style = "yellow" if path in differing else "dim"
            rows.append([Text(path, style="bold"), *(Text(printable(value), style=style) for value in values)])
    return build_table(("", *(run.name for run in runs)), rows)


def _metric(run: Run, name: str) -> float | None:
    value = getattr(run.status.metrics, name) if run.status.metrics else None
    return None if value is None else float(value)


def _best(losses: Sequence[float | None]) -> int | None:
    known = [(loss, index) for index, loss in enumerate(losses) if loss is not None]
    return min(known)[1] if len(known) > 1 else None


def _flatten(value: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, below in value.items():
        flat |= _flatten(below, f"{prefix}{key}.") if isinstance(below, dict) else {f"{prefix}{key}": below}
    return flat


def _show(value: object) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    return "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
