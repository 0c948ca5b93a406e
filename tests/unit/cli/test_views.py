"""What people see: tables, the view of a run, the curve. Golden files hold them as text; ``UPDATE_GOLDEN=1`` writes them anew."""

import io
import os
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console, RenderableType

from finetune_api.estimate import compute_changes_that_fit, compute_estimate, read_shape
from finetune_api.resource import parse_spec
from finetune_cli.curve import render_plot
from finetune_cli.estimate_view import print_estimate
from finetune_cli.log_lines import render_line
from finetune_cli.output import build_table, print_table
from finetune_cli.run_view import build_run_view, describe_change
from finetune_cli.tables import build_artifact_table, build_comparison, build_gpu_tables, build_run_table
from finetune_cli.words import say_bytes, say_duration
from finetune_sdk.gpus import GpuReport, compute_gpu_report
from finetune_sdk.run import LogLine, Run, RunEvent
from tests.support.manifests import build_minimal_manifest, merge

GOLDEN = Path(__file__).with_name("golden")
NOW = datetime(2026, 1, 2, 5, 4, 5, tzinfo=UTC)


def build_run(name: str = "support-bot", status: dict[str, Any] | None = None, **spec: Any) -> Run:
    defaults = {"resources": {"gpus": 1, "nodes": 1, "gpuResource": "nvidia.com/gpu"}, "training": {"learningRate": 0.0002, "epochs": 3}}
    manifest = merge(merge(build_minimal_manifest(name, "team-a"), {"spec": defaults}), {"spec": spec})
    manifest["metadata"] |= {"uid": f"uid-{name}", "creationTimestamp": "2026-01-02T03:00:00Z"}
    return Run({**manifest, "status": status or {}})


def running(**changes: Any) -> dict[str, Any]:
    return merge(
        {
            "phase": "Running",
            "conditions": [
                {
                    "type": "Succeeded",
                    "status": "Unknown",
                    "reason": "Training",
                    "message": "the trainer runs",
                    "lastTransitionTime": "2026-01-02T03:10:00Z",
                }
            ],
            "restarts": 1,
            "startTime": "2026-01-02T03:10:00Z",
            "pod": {"name": "p", "uid": "x", "nodeName": "gpu-node-7"},
            "progress": {
                "percentage": 41,
                "step": 410,
                "totalSteps": 1000,
                "epoch": 1.23,
                "estimatedRemainingSeconds": 9260,
                "lastUpdatedTime": "2026-01-02T05:04:00Z",
            },
            "metrics": {
                "loss": 1.1412,
                "evalLoss": 1.2034,
                "baseEvalLoss": 2.3011,
                "learningRate": 1.42e-4,
                "gradNorm": 0.81,
                "tokensPerSecond": 2413,
                "gpuMemoryPeakBytes": 11811160064,
                "history": [{"step": step, "loss": 1 + 400 / (100 + step)} for step in range(1, 411, 8)],
            },
            "dataset": {"examples": 14000},
        },
        changes,
    )


SUCCEEDED = running(
    phase="Succeeded",
    progress={"percentage": 100, "step": 1000},
    artifacts=[
        {
            "name": "adapter",
            "format": "peft",
            "uri": "s3://team-a/adapters/support-bot/adapter",
            "digest": "sha256:" + "0123456789abcdef" * 4,
            "sizeBytes": 83886080,
            "baseModel": "hf://example/model",
            "createdTime": "2026-01-02T05:00:00Z",
        }
    ],
    completionTime="2026-01-02T05:00:00Z",
)
EVENTS = [
    RunEvent(NOW - timedelta(minutes=114), "Normal", "SuccessfulCreate", "Created pod: support-bot-0-x7k2p", "Job/support-bot-0"),
    RunEvent(NOW - timedelta(minutes=60), "Warning", "Interrupted", "preempted; the checkpoint of step 200 is published " * 3, "Pod/p", 2),
]


def render(*parts: RenderableType, width: int = 100) -> str:
    console = Console(width=width, file=io.StringIO(), force_terminal=False, highlight=False, markup=False)
    for part in parts:
        console.print(part)
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines()) + "\n"  # type: ignore[attr-defined]


def hold(name: str, text: str) -> None:
    path = GOLDEN / f"{name}.txt"
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_text(text)
    assert text == path.read_text()


def build_gpus() -> GpuReport:
    def node(name: str, *, ready: str = "True", **status: str) -> dict[str, Any]:
        labels = {"nvidia.com/gpu.product": "NVIDIA-L4", "nvidia.com/gpu.memory": "23034"}
        conditions = [{"type": "Ready", "status": ready}]
        return {"metadata": {"name": name, "labels": labels}, "status": {"allocatable": status, "conditions": conditions}}

    def pod(name: str, on: str, job: str | None, phase: str = "Running", gpus: str = "1") -> dict[str, Any]:
        labels = {"finetune.dev/job-name": job} if job else {}
        container = {"resources": {"limits": {"nvidia.com/gpu": gpus}}}
        metadata = {"name": name, "namespace": "team-a", "labels": labels}
        return {"metadata": metadata, "spec": {"nodeName": on, "containers": [container]}, "status": {"phase": phase}}

    nodes = [
        node("gpu-1", **{"nvidia.com/gpu": "4", "cpu": "64"}),
        node("gpu-2", ready="False", **{"nvidia.com/gpu": "2"}),
        node("cpu-1", cpu="8"),
    ]
    pods = [pod("a-x", "gpu-1", "a"), pod("server", "gpu-1", None, gpus="2"), pod("done", "gpu-1", "old", phase="Succeeded")]
    waiting = build_run("b", {"phase": "Queued"}, scheduling={"queueName": "research"}, resources={"gpus": 2})
    return compute_gpu_report(nodes, pods, [waiting, build_run("a", running())])


def test_the_list_of_runs() -> None:
    runs = [build_run("new"), build_run("queued", {"phase": "Queued"}, scheduling={"queueName": "research"}), build_run("bot", running())]
    hold("list", render(build_run_table(runs, NOW, namespaces=True)))


@pytest.mark.parametrize("width", [100, 60])
def test_the_view_of_a_run(width: int) -> None:
    hold(f"view-running-{width}", render(build_run_view(build_run(status=running()), EVENTS, NOW, width), width=width))


def test_the_view_of_runs_at_their_ends() -> None:
    views = [build_run_view(build_run(status=status), [], NOW, 90) for status in ({}, SUCCEEDED)]
    hold("view-ends", render(*views))


def test_the_artifacts_and_the_comparison() -> None:
    other = build_run("other", running(metrics={"evalLoss": 1.1}), training={"learningRate": 0.0001})
    hold("compare", render(build_comparison([build_run(status=SUCCEEDED), other]), build_artifact_table(build_run(status=SUCCEEDED))))


def test_the_gpus() -> None:
    hold("gpus", render(*build_gpu_tables(build_gpus()), width=120))


def test_free_gpus_are_counted_on_nodes_that_take_pods() -> None:
    report = build_gpus()
    assert {node.node: (node.total, node.used, node.free) for node in report.nodes} == {"gpu-1": (4, 3, 1), "gpu-2": (2, 0, 0)}
    assert [(waiter.queue, waiter.name, waiter.gpus) for waiter in report.waiting] == [("research", "b", 2)]


def test_the_estimate() -> None:
    config = {"model_type": "llama", "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32}
    shape = read_shape({**config, "num_key_value_heads": 8, "vocab_size": 128256, "tie_word_embeddings": False})
    spec = parse_spec(build_minimal_manifest()["spec"])
    limit = 8 * 2**30
    console = Console(width=120, file=io.StringIO(), force_terminal=False, highlight=False, markup=False)
    print_estimate(shape, compute_estimate(shape, spec), limit, compute_changes_that_fit(shape, spec, limit), console)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    hold("estimate", "\n".join(line.rstrip() for line in text.splitlines()) + "\n")


def test_a_curve_that_falls_falls_on_the_screen() -> None:
    lines = str(render_plot([[(step, 10 - step) for step in range(10)]], 30, 6)).splitlines()
    assert lines[0].startswith("10.00 ┤⠉"), "it begins at the top left"
    assert lines[4].startswith(" 1.00 ┤")
    assert lines[4].endswith("⣀"), "and ends at the bottom right"
    assert lines[-1].endswith("step 9")
    assert max(map(len, lines)) <= 30


@pytest.mark.parametrize("curve", [[], [(1, float("nan"))]])
def test_no_curve_is_drawn_of_nothing(curve: list[tuple[float, float]]) -> None:
    assert str(render_plot([curve], 30, 6)) == "no loss yet"


@pytest.mark.parametrize("curve", [[(1, 2.0)], [(1, 2.0), (2, 2.0)], [(1, 0.0), (1, 0.0)], [(1, 1e-9), (2, 2e9)]])
def test_a_curve_of_any_shape_stays_in_its_frame(curve: list[tuple[float, float]]) -> None:
    lines = str(render_plot([curve], 40, 5)).splitlines()
    assert len(lines) == 5
    assert max(map(len, lines)) <= 40


def test_only_changes_worth_a_line_are_told() -> None:
    before, same = build_run(status=running()), build_run(status=running(metrics={"gradNorm": 3}))
    assert describe_change(before, None) == "Running Training: the trainer runs 41% step 410/1000 loss 1.141"
    assert describe_change(same, before) is None
    assert describe_change(build_run(status=running(progress={"step": 420})), before) == "Running 41% step 420/1000 loss 1.141"


def test_a_log_line_is_shown_by_its_message() -> None:
    line = LogLine("pod", 1, '{"time": "2026-01-02T03:04:05.678+00:00", "level": "warning", "message": "slow \\u001b[31m"}')
    assert str(render_line(line, ranks=True)) == "[1] 03:04:05 slow \\x1b[31m"
    assert str(render_line(LogLine("pod", 0, "no JSON {"), ranks=False)) == "no JSON {"


def test_a_status_of_a_newer_release_is_read_as_far_as_it_is_known() -> None:
    run = build_run(status={"phase": "Hibernating", "restarts": 2, "novelty": 1, "metrics": {"loss": 1.0, "entropy": 3}})
    assert run.phase is None
    assert run.status.restarts == 2
    assert run.status.metrics is not None
    assert run.status.metrics.loss == 1.0


@pytest.mark.parametrize(("seconds", "words"), [(0, "0s"), (59, "59s"), (60, "1m"), (3599, "59m59s"), (7260, "2h1m"), (90000, "1d1h")])
def test_durations(seconds: int, words: str) -> None:
    assert say_duration(seconds) == words


def test_sizes() -> None:
    assert [say_bytes(count) for count in (0, 1023, 1024, 5 * 2**20, 3.25 * 2**30)] == ["0 B", "1023 B", "1.0 KiB", "5.0 MiB", "3.2 GiB"]


def test_a_narrow_terminal_cuts_nothing_off_the_table_of_gpus() -> None:
    stream = io.StringIO()
    Console(file=stream, width=92, color_system=None).print(build_gpu_tables(build_gpus())[0])
    head, *rows = stream.getvalue().splitlines()
    assert head.split() == ["NODE", "PRODUCT", "RESOURCE", "MEMORY", "GPUS", "USED", "FREE", "HELD", "BY"]
    holders = [each for node in build_gpus().nodes for each in node.holders]
    together = "".join(row[head.index("HELD BY") :].strip() for row in rows)
    assert all(f"{each.namespace}/{each.job or each.pod}" in together for each in holders)


def test_a_narrow_terminal_gets_each_name_in_one_piece() -> None:
    node = "ip-10-0-33-17.eu-central-1.compute.internal"
    report = build_gpus()
    report = replace(report, nodes=[replace(report.nodes[0], node=node)])
    stream = io.StringIO()
    print_table(build_gpu_tables(report)[0], Console(file=stream, width=80, force_terminal=True, color_system=None))
    head, row, *_ = stream.getvalue().splitlines()
    assert row.startswith(f"{node} ")
    assert head.split()[:7] == ["NODE", "PRODUCT", "RESOURCE", "MEMORY", "GPUS", "USED", "FREE"]


def test_a_pipe_gets_each_line_whole_however_long_it_is() -> None:
    uri = "s3://team-a/" + "x" * 500
    stream = io.StringIO()
    print_table(build_table(("NAME", "URI"), [["adapter", uri]]), Console(file=stream, width=80))
    _, row = stream.getvalue().splitlines()
    assert row.split() == ["adapter", uri]
