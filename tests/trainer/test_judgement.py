"""A run is judged before its first step and after its last one, by real answers."""

import json
from pathlib import Path
from typing import Any

import pytest

from finetune_api.exit_codes import ExitCode
from tests.support.tracker_files import run_interrupted
from tests.support.trainer_process import Trainers
from tests.support.trainer_workspace import make_config, write_rows
from tests.trainer.conftest import Finished

pytestmark = pytest.mark.torch

WORDS = ["fox", "dog", "sum", "lazy", "quick", "numbers"]
FAST = {
    "method": {"adapter": {"r": 16, "dropout": 0}, "quantization": {"type": "none"}},
    "training": {
        "maxSteps": 60,
        "learningRate": 5e-3,  # with 2e-2 it depends on the seed, and on the processor, whether it learns
        "packing": False,
        "gradientCheckpointing": False,
        "optimizer": "adamw_torch",
        "evalSteps": 1000,
        "checkpoint": {"everySteps": 1000, "keep": 1},
    },
}


def build_config(workspace: Path, name: str, **evaluation: Any) -> dict[str, Any]:
    write_rows(
        workspace / "yes.jsonl", [{"prompt": f"The {one} or the {other}?\n", "completion": "hello"} for one in WORDS for other in WORDS]
    )
    write_rows(workspace / "task.jsonl", [{"prompt": f"The {word} or the {word}?\n", "answer": "hello"} for word in WORDS])
    return make_config(
        workspace,
        name,
        **FAST,
        dataset={"uri": f"file://{workspace}/yes.jsonl", "evalFraction": 0.2},
        evaluation={
            "samples": {"count": 2, "inStatus": 1},
            "tasks": [
                {"name": "says-hello", "uri": f"file://{workspace}/task.jsonl", "match": "exact", "ignoreCase": True},
                {"name": "has-an-o", "uri": f"file://{workspace}/task.jsonl", "match": "regex", "maxExamples": 3},
            ],
            "generation": {"maxNewTokens": 8},
            **evaluation,
        },
    )


@pytest.fixture(scope="module")
def judged(trainers: Trainers, workspace: Path) -> Finished:
    code, process = trainers.run(build_config(workspace, "judged"))
    assert code == 0, process.log
    return Finished(code, process, workspace / "out" / "judged")


def test_scores_before_and_after_are_in_the_summary(judged: Finished) -> None:
    metrics = judged.process.summary.metrics
    assert [(task.name, task.base_score, task.score, task.examples) for task in metrics.tasks] == [
        ("says-hello", 0.0, 1.0, 6),
        ("has-an-o", 0.0, 1.0, 3),
    ]
    assert metrics.perplexity is not None
    assert metrics.base_perplexity is not None
    assert 1 <= metrics.perplexity < metrics.base_perplexity


def test_as_many_samples_as_asked_for_are_in_the_summary_and_the_curves_beside_them(judged: Finished) -> None:
    metrics = judged.process.summary.metrics
    (sample,) = metrics.samples
    assert sample.after == "hello"
    assert sample.before != sample.after
    manifest = json.loads((judged.adapter / "manifest.json").read_text())
    assert not {"samples", "curves"} & manifest["metrics"].keys()
    if metrics.curves is not None:  # they go first where all would be too long
        assert metrics.curves.steps[-1] == 60


def test_answers_before_and_after_are_in_the_artifact(judged: Finished) -> None:
    evaluation = json.loads((judged.adapter / "evaluation.json").read_text())
    assert len(evaluation["samples"]) == 2
    for sample in evaluation["samples"]:
        assert (sample["expected"], sample["after"]) == ("hello", "hello")
        assert sample["before"] != "hello"
        assert sample["prompt"] in (judged.adapter / "report.html").read_text()
    assert "| says-hello | 0.0 % | 100.0 % | 6 |" in (judged.adapter / "README.md").read_text()


def test_a_finished_run_still_knows_its_scores(judged: Finished, trainers: Trainers, workspace: Path) -> None:
    code, process = trainers.run(build_config(workspace, "judged"))
    assert code == 0, process.log
    assert process.summary.metrics.tasks == judged.process.summary.metrics.tasks


def test_answers_from_before_outlive_an_interruption(judged: Finished, trainers: Trainers, workspace: Path) -> None:
    config = build_config(workspace, "judged-twice")
    stopped = trainers.call(run_interrupted, config, 3)
    assert stopped.wait() == ExitCode.INTERRUPTED, stopped.log
    code, process = trainers.run(config)
    assert code == 0, process.log
    assert "before training took" not in process.log, "the base model was asked again"
    assert process.summary.metrics.tasks == judged.process.summary.metrics.tasks


@pytest.mark.parametrize(
    ("name", "generation"),
    [
        ("drawn", {"temperature": 0.7, "topK": 20, "topP": 0.9, "maxNewTokens": 4}),
        ("beams", {"numBeams": 3, "repetitionPenalty": 1.2, "maxNewTokens": 4}),
    ],
)
def test_answers_are_generated_as_asked(name: str, generation: dict[str, Any], trainers: Trainers, workspace: Path) -> None:
    """And drawing at random changes nothing of what is learnt."""
    config = build_config(workspace, name, generation=generation, tasks=[], samples={"prompts": ["The fox or the dog?\n"]})
    config["training"]["maxSteps"] = 2
    code, process = trainers.run(config)
    assert code == 0, process.log
    [sample] = json.loads((workspace / "out" / name / "adapter" / "evaluation.json").read_text())["samples"]
    assert isinstance(sample["before"], str)
    assert isinstance(sample["after"], str)


def test_a_task_that_cannot_be_read_fails_before_training(trainers: Trainers, workspace: Path) -> None:
    config = build_config(workspace, "bad-task")
    (workspace / "bad-task.jsonl").write_text('{"prompt": "a", "answer": "("}\n')
    config["evaluation"]["tasks"] = [{"name": "bad", "uri": f"file://{workspace}/bad-task.jsonl", "match": "regex"}]
    code, process = trainers.run(config)
    assert code == ExitCode.DATA_INVALID
    assert "evaluation.tasks[0] (bad)" in process.summary.message
    assert "bad-task.jsonl:1" in process.summary.message
    assert "model loaded" not in process.log
