"""What goes into status beside the newest figures: curves that stay small, and samples that are cut."""

from datetime import UTC, datetime

import pytest

from finetune_api.names import CURVES_MAX_POINTS, EXCERPT_MAX_CHARACTERS, REPORT_MAX_BYTES
from finetune_api.progress import Curves, HarnessScore, LossPoint, Metrics, Progress, SampleExcerpt, TaskScore
from finetune_api.report import JobReference, TrainerReport
from finetune_trainer.evaluation.results import Evaluation, Sample
from finetune_trainer.reporting.curve import CurveSet
from finetune_trainer.run.progress import RunProgress

JOB = JobReference(namespace="team-a", name="run", uid="u")


def figures(step: int) -> dict[str, float]:
    return {"learning_rate": 1e-4 * step, "grad_norm": 1.0, "tokens_per_second": 5000.5, "memory_bytes": 2**34, "loss": 1.0}


@pytest.mark.parametrize("count", [2, 31, 32, 33, 1000])
def test_curves_are_thinned_over_the_whole_run_and_go_together(count: int) -> None:
    curves = CurveSet()
    for step in range(1, count + 1):
        curves.add(step, figures(step))
    built = curves.build()
    assert built is not None
    assert (built.steps[0], built.steps[-1]) == (1, count)
    assert len(built.steps) <= CURVES_MAX_POINTS
    assert {len(each) for each in (built.learning_rate, built.grad_norm, built.tokens_per_second, built.memory_bytes)} == {len(built.steps)}
    assert built.learning_rate == [1e-4 * step for step in built.steps]


def test_a_figure_that_is_missing_somewhere_has_no_curve_and_the_others_do() -> None:
    curves = CurveSet()
    curves.add(1, figures(1) | {"grad_norm": float("nan")})
    curves.add(2, figures(2))
    built = curves.build()
    assert built is not None
    assert built.grad_norm == []
    assert len(built.learning_rate) == 2


def test_a_run_that_goes_on_has_the_curves_of_what_was_before() -> None:
    progress = RunProgress(JOB)
    progress.restore(2, 0.5, 100, [{"step": 1, **figures(1)}, {"step": 2, "eval_loss": 1.0}, {"step": 2, **figures(2)}], {})
    progress.record_curves(3, figures(3))
    curves = progress.measure()[1].curves
    assert curves is not None
    assert curves.steps == [1, 2, 3]


@pytest.mark.parametrize("shown", [0, 1, 4])
def test_only_as_many_samples_are_shown_as_were_asked_for(shown: int) -> None:
    progress = RunProgress(JOB, samples_shown=shown)
    progress.evaluation = Evaluation(samples=[Sample(prompt=str(number), before="b") for number in range(3)])
    assert [sample.prompt for sample in progress.measure()[1].samples] == ["0", "1", "2"][:shown]


def test_of_a_prompt_the_end_is_kept_and_of_an_answer_the_beginning() -> None:
    sample = Sample(prompt="p" * 500 + "?", before="a" + "b" * 500, after="\x00\x1b[31mred\ud800")
    (cut,) = Evaluation(samples=[sample]).excerpt_samples(4)
    assert (len(cut.prompt), cut.prompt[0], cut.prompt[-1]) == (EXCERPT_MAX_CHARACTERS, "…", "?")
    assert (cut.before or "")[0] == "a"
    assert (cut.before or "")[-1] == "…"
    assert cut.after == "\ufffd\ufffd[31mred?"


def test_the_largest_report_is_read() -> None:
    long, number = "\U0001f600" * EXCERPT_MAX_CHARACTERS, 0.00012345678
    report = TrainerReport(
        job=JobReference(namespace="n" * 63, name="n" * 253, uid="u" * 64),
        sequence=2**53,
        stage="publishing",
        progress=Progress(
            percentage=100,
            step=2**50,
            total_steps=2**50,
            epoch=number,
            last_updated_time=datetime(2026, 1, 1, tzinfo=UTC),
            adjustments=["w" * 256] * 8,
        ),
        metrics=Metrics(
            history=[LossPoint(step=2**50, loss=number)] * 64,
            curves=Curves(
                steps=[2**50] * 32,
                learning_rate=[number] * 32,
                grad_norm=[number] * 32,
                tokens_per_second=[number] * 32,
                memory_bytes=[2**50] * 32,
            ),
            samples=[SampleExcerpt(prompt=long, before=long, after=long)] * 4,
            tasks=[TaskScore(name="t" * 32, base_score=number, score=number, examples=2**50)] * 8,
            harness=[HarnessScore(name="t" * 64, metric="m" * 64, base_score=number, score=number, examples=2**50)] * 8,
        ),
    )
    assert len(report.model_dump_json(exclude_none=True).encode()) <= REPORT_MAX_BYTES
