"""The trainer's last word always fits in a termination message, and says the most important things whatever happens."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_api.artifact import Artifact
from finetune_api.base import format_time
from finetune_api.names import SUMMARY_MAX_BYTES
from finetune_api.progress import Curves, DatasetCounts, LossPoint, Metrics, Progress, SampleExcerpt, TaskScore
from finetune_api.reasons import Reason
from finetune_api.spec.evaluation import MAX_TASKS
from finetune_api.spec.output import MAX_PUSHES, MAX_SHORT_URI_LENGTH
from finetune_api.summary import TrainerSummary, decode_summary, encode_summary
from finetune_api.uri import MAX_URI_LENGTH

counts = st.integers(0, 2**53)
measures = st.floats(0, 1e15)
losses = st.floats(-1e6, 1e6)
times = st.datetimes(timezones=st.none())
excerpts = st.text(st.characters(codec="utf-8"), max_size=280)
texts = st.text(st.characters(codec="utf-8"), max_size=1200)

progress = st.builds(
    Progress,
    percentage=st.integers(0, 100),
    step=counts,
    total_steps=counts,
    epoch=measures,
    estimated_remaining_seconds=st.none() | counts,
    last_updated_time=times,
)
metrics = st.builds(
    Metrics,
    loss=st.none() | losses,
    eval_loss=losses,
    base_eval_loss=losses,
    learning_rate=measures,
    grad_norm=measures,
    tokens_per_second=measures,
    tokens_seen=counts,
    gpu_memory_peak_bytes=counts,
    history=st.lists(st.builds(LossPoint, step=counts, loss=losses), max_size=64),
    curves=st.none() | st.builds(Curves, steps=st.lists(counts, max_size=32), grad_norm=st.lists(measures, max_size=32)),
    samples=st.lists(st.builds(SampleExcerpt, prompt=excerpts, before=st.none() | excerpts, after=st.none() | excerpts), max_size=4),
)
artifacts = st.builds(
    Artifact,
    name=st.sampled_from(["adapter"]),
    format=st.just("peft"),
    uri=st.text(st.characters(codec="ascii", categories=["L"]), min_size=1, max_size=1200),
    digest=st.just(f"sha256:{'a' * 64}"),
    size_bytes=counts,
    base_model=st.text(st.characters(codec="ascii", categories=["L"]), max_size=1200),
    created_time=times,
)
summaries = st.builds(
    TrainerSummary,
    outcome=st.sampled_from(["completed", "interrupted", "failed"]),
    reason=st.sampled_from(Reason),
    message=texts,
    progress=st.none() | progress,
    metrics=metrics,
    dataset=st.none() | st.builds(DatasetCounts, examples=counts, eval_examples=counts, dropped=counts, truncated=counts),
    artifacts=st.lists(artifacts, max_size=1),
    checkpoint_step=st.none() | counts,
    device=st.none() | st.text(max_size=128),
)


@settings(max_examples=60)
@given(summaries)
def test_it_fits_and_can_be_read_again(summary: TrainerSummary) -> None:
    text = encode_summary(summary)
    assert len(text.encode()) <= SUMMARY_MAX_BYTES
    read = decode_summary(text)
    assert read is not None
    assert (read.outcome, read.reason, read.checkpoint_step) == (summary.outcome, summary.reason, summary.checkpoint_step)
    assert [artifact.digest for artifact in read.artifacts] == [artifact.digest for artifact in summary.artifacts]
    written = TrainerSummary.model_validate_json(summary.model_dump_json()).metrics.history
    assert set(read.metrics.history) <= set(written) if written else not read.metrics.history
    assert summary.message.startswith(read.message.removesuffix("…")) or read.message == summary.message


@given(
    message=st.text(st.sampled_from('é"\\\n文😀a\x00'), min_size=3000, max_size=4096),
    points=st.lists(st.builds(LossPoint, step=counts, loss=losses), min_size=64, max_size=64),
)
def test_the_largest_it_can_be_still_fits(message: str, points: list[LossPoint]) -> None:
    summary = TrainerSummary(outcome="failed", reason=Reason.TRAINER_CRASHED, message=message, metrics=Metrics(history=points))
    text = encode_summary(summary)
    assert len(text.encode()) <= SUMMARY_MAX_BYTES
    read = decode_summary(text)
    assert read is not None
    assert read.message.removesuffix("…")
    assert message.startswith(read.message.removesuffix("…"))


@given(metrics=metrics, progress=progress, message=texts)
@settings(max_examples=30)
def test_the_longest_names_of_an_artifact_fit(metrics: Metrics, progress: Progress, message: str) -> None:
    longest = "文" * (MAX_URI_LENGTH // 3)
    artifact = Artifact(
        name="adapter",
        format="peft",
        uri=f"{longest}/adapter",
        digest=f"sha256:{'a' * 64}",
        size_bytes=2**53,
        base_model=f"{longest}@{'r' * 128}",
        created_time=progress.last_updated_time,
    )
    summary = TrainerSummary(
        outcome="completed", reason=Reason.COMPLETED, message=message, metrics=metrics, progress=progress, artifacts=[artifact]
    )
    text = encode_summary(summary)
    assert len(text.encode()) <= SUMMARY_MAX_BYTES
    read = decode_summary(text)
    assert read is not None
    assert read.artifacts == [artifact.model_copy(update={"created_time": read.artifacts[0].created_time})]


@given(metrics=metrics, progress=progress, message=texts)
@settings(max_examples=30)
def test_as_many_artifacts_as_there_can_be_fit(metrics: Metrics, progress: Progress, message: str) -> None:
    """The adapter, the merged model, the GGUF file, the one in 4 bits and three copies, each of the longest URI; and eight tasks."""
    longest = "文" * (MAX_SHORT_URI_LENGTH // 3)
    artifacts = [
        Artifact(
            name="adapter",
            format="transformers",
            uri=f"{longest}{'x' * 41}",
            digest=f"sha256:{'a' * 64}",
            size_bytes=2**53,
            base_model="文" * (MAX_URI_LENGTH // 3) + f"@{'r' * 128}",
            created_time=progress.last_updated_time,
        )
        for _ in range(4 + MAX_PUSHES)
    ]
    tasks = [TaskScore(name="n" * 32, base_score=0.12345, score=0.12345, examples=10_000) for _ in range(MAX_TASKS)]
    summary = TrainerSummary(
        outcome="completed",
        reason=Reason.COMPLETED,
        message=message,
        metrics=metrics.model_copy(update={"tasks": tasks}),
        progress=progress,
        artifacts=artifacts,
    )
    text = encode_summary(summary)
    assert len(text.encode()) <= SUMMARY_MAX_BYTES
    read = decode_summary(text)
    assert read is not None
    assert [(a.uri, a.digest) for a in read.artifacts] == [(a.uri, a.digest) for a in artifacts]


def test_a_small_one_loses_nothing() -> None:
    summary = TrainerSummary(
        outcome="completed",
        reason=Reason.COMPLETED,
        message="done",
        metrics=Metrics(loss=1.5, history=[LossPoint(step=1, loss=2.0), LossPoint(step=2, loss=1.5)]),
    )
    assert decode_summary(encode_summary(summary)) == summary


@pytest.mark.parametrize(
    "text", ["", "OOMKilled", "{", "[]", '{"outcome": "won"}', "null", '{"outcome":"failed","reason":"Unheard"}', "\x00"]
)
def test_the_kubelets_own_words_are_no_summary(text: str) -> None:
    assert decode_summary(text) is None


@given(times)
def test_times_are_written_as_kubernetes_writes_them(time: object) -> None:
    assert len(format_time(time)) == len("2026-01-01T00:00:00Z")  # type: ignore[arg-type]


def test_samples_stay_longer_than_the_curves_that_reports_have_told_before() -> None:
    """A report of the answers after training may come too late; the curves were reported all along."""
    long = "x" * 280
    summary = TrainerSummary(
        outcome="completed",
        reason=Reason.COMPLETED,
        metrics=Metrics(
            history=[LossPoint(step=step, loss=1.0) for step in range(64)],
            curves=Curves(steps=list(range(32)), grad_norm=[1.5] * 32),
            samples=[SampleExcerpt(prompt=long, before=long, after=long)] * 4,
        ),
    )
    read = decode_summary(encode_summary(summary))
    assert read is not None
    assert read.metrics.curves is None
    assert len(read.metrics.samples) == 4
