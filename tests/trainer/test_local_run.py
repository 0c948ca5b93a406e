"""`finetune run` and `finetune generate`: a real training on this machine, shown as in a cluster."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.support.terminal import Terminal
from tests.support.trainer_workspace import SPEC_METHOD, TRAINING

pytestmark = pytest.mark.torch
FINETUNE = str(Path(sys.executable).with_name("finetune"))


def write_manifest(workspace: Path, name: str, **training: object) -> Path:
    manifest = {
        "apiVersion": "finetune.dev/v1alpha1",
        "kind": "FineTuneJob",
        "metadata": {"name": name},
        "spec": {
            "model": {"uri": f"file://{workspace}/model"},
            "dataset": {"uri": f"file://{workspace}/train.jsonl", "eval": {"uri": f"file://{workspace}/eval.jsonl"}},
            "method": SPEC_METHOD,
            "training": {**TRAINING, "maxSteps": 4, **training},
            "output": {"uri": f"file://{workspace}/out/{name}"},
            "resources": {"gpus": 0},
        },
    }
    path = workspace / f"{name}.yaml"
    path.write_text(yaml.safe_dump(manifest))
    return path


@pytest.fixture(scope="module")
def trained(workspace: Path) -> tuple[Path, Terminal]:
    """An adapter trained by `finetune run` on a terminal, and what stood there."""
    manifest = write_manifest(workspace, "local")
    screen = Terminal([FINETUNE, "run", "-f", str(manifest), "--work-dir", str(workspace / "work-local")])
    assert screen.wait(240) == 0, screen.text
    return workspace / "out" / "local" / "adapter", screen


def test_a_local_run_is_shown_live_and_publishes(trained: tuple[Path, Terminal]) -> None:
    adapter, screen = trained
    assert json.loads((adapter / "manifest.json").read_text())["kind"] == "adapter"
    assert "step 4 of 4" in screen.text
    assert "Succeeded" in screen.text
    assert re.search(r"sha256:[0-9a-f]{64}", screen.text)


def test_the_same_command_finds_the_run_done(trained: tuple[Path, Terminal], workspace: Path) -> None:
    command = [FINETUNE, "run", "--plain", "-f", str(workspace / "local.yaml"), "--work-dir", str(workspace / "work-local")]
    again = subprocess.run(command, capture_output=True, text=True, check=False, timeout=200)
    assert again.returncode == 0, again.stderr
    assert "published its adapter already" in again.stderr
    assert f"file://{trained[0]}" in again.stdout


def test_the_trainer_s_exit_code_is_passed_on(workspace: Path) -> None:
    manifest = write_manifest(workspace, "nodata")
    manifest.write_text(manifest.read_text().replace("train.jsonl", "missing.jsonl"))
    command = [FINETUNE, "run", "--plain", "-f", str(manifest), "--work-dir", str(workspace / "work-nodata")]
    failed = subprocess.run(command, capture_output=True, text=True, check=False, timeout=200)
    assert failed.returncode == 66, failed.stderr


def test_base_and_adapter_answer_side_by_side(trained: tuple[Path, Terminal]) -> None:
    adapter, _ = trained
    environment = {**os.environ, "COLUMNS": "100"}
    command = [FINETUNE, "generate", str(adapter), "--cpu", "--max-tokens", "8", "--json"]
    told = subprocess.run(
        command, input="Return the sum\nsay hello\n", capture_output=True, text=True, check=False, timeout=200, env=environment
    )
    assert told.returncode == 0, told.stderr
    answers = [json.loads(line) for line in told.stdout.splitlines()]
    assert [answer["prompt"] for answer in answers] == ["Return the sum", "say hello"]
    assert any(answer["base"] != answer["adapter"] for answer in answers), "the adapter changes what is said"


def test_what_can_t_be_loaded_is_said(tmp_path: Path) -> None:
    told = subprocess.run([FINETUNE, "generate", str(tmp_path), "-p", "x"], capture_output=True, text=True, check=False, timeout=200)
    assert told.returncode == 1
    assert "holds no adapter: adapter_config.json is missing" in told.stderr
