"""Tasks of lm-evaluation-harness are measured before training and after it, by the harness itself, on data from files."""

import json
from pathlib import Path
from typing import Any

import pytest

from finetune_api.exit_codes import ExitCode
from tests.support.trainer_process import Trainers
from tests.support.trainer_workspace import make_config, write_rows
from tests.trainer.conftest import Finished
from tests.trainer.test_judgement import FAST, WORDS

pytestmark = pytest.mark.torch

CHOICE = """
task: which
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: ["quick numbers", "hello"]
doc_to_target: answer
target_delimiter: ""
metric_list:
  - metric: acc
"""
ANSWER = """
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "hello"
generation_kwargs: {until: ["\\n"], max_gen_toks: 8}
filter_list:
  - name: stripped
    filter: [{function: remove_whitespace}, {function: take_first}]
metric_list:
  - metric: exact_match
"""


def build_config(workspace: Path, name: str, harness: list[dict[str, Any]]) -> dict[str, Any]:
    rows = [{"prompt": f"The {one} or the {other}?\n", "completion": "hello"} for one in WORDS for other in WORDS]
    write_rows(workspace / "yes-harness.jsonl", rows)
    write_rows(workspace / "questions.jsonl", [{"question": f"The {word} or the {word}?\n", "answer": 1} for word in WORDS])
    (workspace / "choice.yaml").write_text(CHOICE)
    (workspace / "answer.yaml").write_text(ANSWER)
    return make_config(
        workspace,
        name,
        **FAST,
        dataset={"uri": f"file://{workspace}/yes-harness.jsonl", "evalFraction": 0.2},
        evaluation={"samples": {"count": 0}, "harness": harness},
    )


def own(workspace: Path, name: str, file: str, **settings: Any) -> dict[str, Any]:
    return {"name": name, "uri": f"file://{workspace}/{file}", "datasetUri": f"file://{workspace}/questions.jsonl", **settings}


@pytest.fixture(scope="module")
def measured(trainers: Trainers, workspace: Path) -> Finished:
    tasks = [own(workspace, "which", "choice.yaml", numFewshot=1), own(workspace, "answers", "answer.yaml", maxExamples=4)]
    code, process = trainers.run(build_config(workspace, "harness", tasks))
    assert code == 0, process.log
    return Finished(code, process, workspace / "out" / "harness")


def test_scores_before_and_after_are_in_the_summary(measured: Finished) -> None:
    choice, answers = measured.process.summary.metrics.harness
    assert (choice.name, choice.metric, choice.examples) == ("which", "acc", 6)
    assert choice.base_score is not None
    assert choice.score == 1.0
    assert (answers.name, answers.metric, answers.examples) == ("answers", "exact_match", 4)
    assert (answers.base_score, answers.score) == (0.0, 1.0)


def test_scores_are_in_what_is_published(measured: Finished) -> None:
    assert "| answers | exact_match | 0 | 1 | 4 |" in (measured.adapter / "README.md").read_text()
    assert "lm-evaluation-harness" in (measured.adapter / "report.html").read_text()
    manifest = json.loads((measured.adapter / "manifest.json").read_text())
    assert [task["name"] for task in manifest["harness"]] == ["which", "answers"]


@pytest.mark.parametrize(
    ("yaml", "words"),
    [
        (CHOICE + "process_docs: !function code.run\n", "run code"),
        (CHOICE + "include: /etc/passwd\n", "include is not taken here"),
        (CHOICE.replace("acc", "accuracy"), "is no metric of the harness itself"),
        (CHOICE.replace("{{question}}", "{{ ''.__class__.__mro__[1].__subclasses__() }}"), "SecurityError"),
    ],
    ids=["function", "include", "metric-of-a-hub", "template"],
)
def test_a_task_runs_no_code(yaml: str, words: str, trainers: Trainers, workspace: Path, tmp_path: Path) -> None:
    (tmp_path / "evil.yaml").write_text(yaml)
    task = own(workspace, "evil", "choice.yaml") | {"uri": f"file://{tmp_path}/evil.yaml"}
    code, process = trainers.run(build_config(workspace, f"harness-{tmp_path.name}", [task]))
    assert code in (ExitCode.CONFIG_INVALID, ExitCode.DATA_INVALID), process.log
    assert "evil" in process.summary.message
    assert words in process.summary.message
    assert process.summary.progress is None, "it failed before the first step"


def test_a_trainer_without_it_says_so_at_once(trainers: Trainers, workspace: Path) -> None:
    config = build_config(workspace, "harness-absent", [{"name": "arc_easy"}])
    process = trainers.call(run_without_harness, config)
    assert process.wait() == ExitCode.CONFIG_INVALID, process.log
    assert "has no lm-evaluation-harness" in process.summary.message


def run_without_harness(config: dict[str, Any]) -> None:
    import os
    import sys

    from finetune_trainer.main import main

    sys.modules["lm_eval"] = None  # type: ignore[assignment]  # as where it is not installed
    os.environ["FINETUNE_CONFIG"] = json.dumps(config)
    sys.argv = ["finetune-trainer"]
    main()
