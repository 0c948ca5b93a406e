"""Every foreseen failure has its exit code, and a last word that the operator can read."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from finetune_api.exit_codes import OUTCOMES, ExitCode
from finetune_api.summary import decode_summary
from tests.support.trainer_process import Trainers
from tests.support.trainer_workspace import make_config

pytestmark = pytest.mark.torch


def fail(trainers: Trainers, config: dict[str, Any], code: ExitCode, *words: str) -> str:
    got, process = trainers.run(config, {"CUDA_VISIBLE_DEVICES": ""})
    assert got == code, process.log
    summary = process.summary
    assert (summary.outcome, summary.reason) == ("failed", OUTCOMES[code].reason)
    assert summary.artifacts == []
    for word in words:
        assert word in summary.message
    return summary.message


def test_gpu_asked_for_and_none_there(trainers: Trainers, workspace: Path) -> None:
    config = make_config(workspace, "no-cuda", device={"gpus": 1}, model={"uri": "file:///nowhere"})
    fail(trainers, config, ExitCode.ACCELERATOR_MISSING, "1 GPU", "CUDA", "resources.gpus")


def test_bad_data(trainers: Trainers, workspace: Path) -> None:
    bad = workspace / "bad.jsonl"
    bad.write_text('{"prompt": "a"}\n{"prompt": \n')
    fail(trainers, make_config(workspace, "bad-data", dataset={"uri": f"file://{bad}"}), ExitCode.DATA_INVALID, "bad.jsonl")


def test_missing_model(trainers: Trainers, workspace: Path) -> None:
    config = make_config(workspace, "no-model", model={"uri": f"file://{workspace}/nowhere"})
    fail(trainers, config, ExitCode.SOURCE_UNAVAILABLE, "nowhere")


@pytest.mark.parametrize(
    ("targets", "words"),
    [
        ("q_proj,qv_proj", ("'qv_proj'", "q_proj", "down_proj")),
        ("nothing[.].*", ("'nothing[.].*'", "gate_proj")),
        ("q_proj,lm_head", ("head", "leave it out")),
    ],
)
def test_target_modules_that_do_not_fit(targets: str, words: tuple[str, ...], trainers: Trainers, workspace: Path) -> None:
    config = make_config(workspace, "targets", method={"adapter": {"targetModules": targets}})
    fail(trainers, config, ExitCode.CONFIG_INVALID, "targetModules", *words)


def test_other_architecture(trainers: Trainers, workspace: Path) -> None:
    folder = workspace / "encoder"
    if not folder.exists():
        folder.mkdir()
        for file in (workspace / "model").iterdir():
            (folder / file.name).write_bytes(file.read_bytes())
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, "model_type": "t5", "architectures": ["T5ForConditionalGeneration"]}))
    fail(
        trainers,
        make_config(workspace, "encoder", model={"uri": f"file://{folder}"}),
        ExitCode.CONFIG_INVALID,
        "causal language model",
        "t5",
    )


def test_examples_longer_than_the_model(trainers: Trainers, workspace: Path) -> None:
    data = workspace / "long.jsonl"
    data.write_text("".join(json.dumps({"prompt": "a", "completion": "the quick fox " * 300}) + "\n" for _ in range(4)))
    config = make_config(workspace, "long", dataset={"uri": f"file://{data}", "evalFraction": 0}, training={"maxLength": 1024})
    fail(trainers, config, ExitCode.CONFIG_INVALID, "training.maxLength", "512 positions")


def test_loss_that_is_not_a_number(trainers: Trainers, workspace: Path) -> None:
    config = make_config(
        workspace,
        "diverged",
        model={"uri": f"file://{workspace}/poisoned"},
        dataset={"uri": f"file://{workspace}/poisoned.jsonl", "eval": {"uri": f"file://{workspace}/eval.jsonl"}},
        training={"checkpoint": {"everySteps": 1}},
    )
    message = fail(trainers, config, ExitCode.LOSS_DIVERGED, "the loss is nan at step", "learningRate")
    step = int(message.split("at step ")[1].split()[0])
    assert 1 <= step <= 14
    assert not (workspace / "out" / "diverged" / "adapter").exists()


def test_store_that_fails(trainers: Trainers, workspace: Path) -> None:
    file = workspace / "a-file"
    file.write_text("")
    fail(trainers, make_config(workspace, "no-store", output={"uri": f"file://{file}/out"}), ExitCode.STORAGE_FAILED, "a-file")


def test_no_configuration(trainers: Trainers) -> None:
    config: dict[str, Any] = {"job": {"namespace": "a", "name": "b", "uid": "c"}, "training": {"epochs": -1}}
    fail(trainers, config, ExitCode.CONFIG_INVALID, "training.epochs", "model")


def test_console_script_from_a_file(workspace: Path) -> None:
    """The real entry point, started anew: JSON log on standard error, the summary on standard output and in the file."""
    script = Path(sys.executable).with_name("finetune-trainer")
    config = make_config(workspace, "console", training={"maxSteps": 1, "optimizer": "adamw_torch", "evalSteps": None})
    file = workspace / "console.yaml"
    file.write_text(json.dumps(config))
    environ = {**os.environ, "FINETUNE_TERMINATION_MESSAGE_PATH": str(workspace / "console-termination"), "OMP_NUM_THREADS": "1"}
    environ.pop("FINETUNE_CONFIG", None)
    done = subprocess.run([script, "--config", file], env=environ, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    summary = decode_summary(done.stdout)
    assert summary is not None
    assert summary.outcome == "completed"
    assert decode_summary((workspace / "console-termination").read_text()) == summary
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert {line["job"] for line in lines if "job" in line} == {"team-a/console"}
    assert all(line["uid"] == "uid-console" and line["attempt"] == 0 for line in lines if "job" in line)


def test_help_names_the_exit_codes() -> None:
    script = Path(sys.executable).with_name("finetune-trainer")
    done = subprocess.run([script, "--help"], capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0
    for code in ExitCode:
        assert f"{code.value}  {OUTCOMES[code].reason}" in done.stdout


def test_a_refused_configuration_waits_for_no_library(tmp_path: Path) -> None:
    """Loading torch, transformers and PEFT takes seconds, of a pod that asked for a GPU."""
    file = tmp_path / "config.json"
    file.write_text("{}")
    command = [sys.executable, "-X", "importtime", "-m", "finetune_trainer.main", "--config", file]
    environ = {**os.environ, "FINETUNE_TERMINATION_MESSAGE_PATH": str(tmp_path / "termination")}
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == ExitCode.CONFIG_INVALID, done.stderr
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert "finetune_trainer.configuration" in loaded
    assert not loaded & {"torch", "transformers", "peft", "trl", "datasets"}
