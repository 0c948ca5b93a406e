"""`finetune validate`: every fault at once, with file, line and field."""

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from finetune_cli.main import app
from tests.support.bad_manifests import BadManifest, load_bad_manifests
from tests.support.manifests import build_minimal_manifest

GOOD = yaml.safe_dump(build_minimal_manifest(), sort_keys=False)
BAD = """\
apiVersion: v1
kind: Secret
metadata: {name: hf}
---
apiVersion: finetune.dev/v1alpha1
kind: FineTuneJob
metadata: {name: 8b}
spec:
  model: {uri: hf://example/model}
  dataset:
    uri: s3://team-a/../x
  output: {uri: s3://team-a/out}
  training:
    learningRate: 2e-4
    epoch: 3
  pod:
    env:
      - {name: A}
      - name: LD_PRELOAD
"""
BAD_LINES = [
    "{}:1: Secret: not checked",
    "{}:7: metadata.name: must have at most 63 characters, begin with a letter, and hold only lower-case letters, digits and '-'",
    "{}:11: spec.dataset.uri: must not contain '..' or a backslash",
    "{}:15: spec.training.epoch: unknown field; remove it or check its spelling",
    "{}:19: spec.pod.env[1].name: must not begin with a reserved prefix (FINETUNE_, KUBERNETES_, LD_, NVIDIA_, PYTHON)",
]


def run(*arguments: str, stdin: str = "") -> tuple[int, str]:
    result = CliRunner().invoke(app, arguments, input=stdin)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


def test_a_good_manifest_is_valid(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(GOOD)
    assert run("validate", str(path)) == (0, f"{path}:1: FineTuneJob minimal is valid\n")


def test_every_fault_is_named_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(BAD)
    code, output = run("validate", str(path))
    assert code == 1
    assert output.splitlines() == [line.format(path) for line in BAD_LINES]


def test_a_sweep_is_checked_by_its_own_rules(tmp_path: Path) -> None:
    example = Path(__file__).parents[3] / "examples" / "sweep.yaml"
    code, output = run("validate", str(example))
    assert (code, "FineTuneSweep" in output, "is valid" in output) == (0, True, True)
    path = tmp_path / "sweep.yaml"
    path.write_text(example.read_text().replace("parameters:", "parameter:"))
    code, output = run("validate", str(path))
    assert code == 1
    assert "spec.parameters: must be given" in output
    assert "spec.parameter: unknown field" in output


def test_standard_input_and_several_files_are_read(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(GOOD)
    code, output = run("validate", str(path), "-", stdin=BAD)
    assert code == 1
    assert output.splitlines() == [f"{path}:1: FineTuneJob minimal is valid", *(line.format("<stdin>") for line in BAD_LINES)]


def test_json_is_taken_and_given() -> None:
    code, output = run("validate", "-o", "json", "-", stdin=json.dumps(build_minimal_manifest()) + "\n---\n" + BAD)
    result = json.loads(output)
    assert (code, result["valid"]) == (1, False)
    assert [document["valid"] for document in result["documents"]] == [True, None, False]
    assert result["documents"][2]["faults"][1] == {
        "path": "spec.dataset.uri",
        "line": 2 + 11,
        "message": "must not contain '..' or a backslash",
    }


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "<stdin>: holds no FineTuneJob and no FineTuneSweep"),
        ("kind: Namespace\napiVersion: v1\n", "<stdin>: holds no FineTuneJob and no FineTuneSweep"),
        ("just text\n", "<stdin>:1: is no manifest"),
        ("[]\n", "<stdin>:1: is no manifest"),
        ("a: [\n", "<stdin>:2: expected the node content"),
        ("kind: FinetuneJob\napiVersion: finetune.dev/v1alpha1\n", "<stdin>:1: kind: must be FineTuneJob"),
        ("kind: FineTuneJob\napiVersion: v1\n", "<stdin>:2: apiVersion: must be finetune.dev/v1alpha1"),
        ("spec: {}\n", "<stdin>:1: spec.model: must be given"),
        ('apiVersion: finetune.dev/v1\nkind: FineTuneJob\n"\\e[31mx": 1\n', "<stdin>:3: \\x1b[31mx: unknown field"),
    ],
)
def test_what_is_no_fine_tune_job_is_refused(text: str, fault: str) -> None:
    code, output = run("validate", "-", stdin=text)
    assert code == 1
    assert fault in output


def test_a_document_that_is_no_yaml_does_not_hide_the_ones_before_it() -> None:
    code, output = run("validate", "-", stdin=f"{GOOD}---\na: [\n")
    assert code == 1
    assert output.splitlines()[0] == "<stdin>:1: FineTuneJob minimal is valid"
    assert output.splitlines()[1].startswith("<stdin>:")


@pytest.mark.parametrize("bad", load_bad_manifests("parse"), ids=lambda bad: bad.name)
def test_the_bad_input_table_is_refused(bad: BadManifest) -> None:
    code, output = run("validate", "-o", "json", "-", stdin=json.dumps(bad.manifest))
    assert code == 1
    (document,) = json.loads(output)["documents"]
    assert {fault["path"] for fault in document["faults"]} == {bad.field}
    assert all(fault["line"] >= 1 for fault in document["faults"])


@pytest.mark.parametrize(
    "arguments", [["validate"], ["validate", "no-such-file.yaml"], ["validate", "."], ["validate", "-o", "xml", "-"], ["nonsense"]], ids=str
)
def test_wrong_usage_is_told_apart(arguments: list[str]) -> None:
    assert run(*arguments)[0] == 2


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_bytes(b"\xff\xfe\x00")
    assert run("validate", str(path)) == (1, f"{path}: is not text in UTF-8: invalid start byte at byte 0\n")


FINETUNE = str(Path(sys.executable).with_name("finetune"))


def test_the_installed_command_runs(tmp_path: Path) -> None:
    shown = subprocess.run([FINETUNE, "--version"], capture_output=True, text=True, check=True)
    assert shown.stdout.startswith("finetune 0.")
    path = tmp_path / "job.yaml"
    path.write_text(BAD)
    piped = subprocess.run([FINETUNE, "validate", str(path)], capture_output=True, text=True, check=False)
    assert piped.returncode == 1
    assert "\x1b" not in piped.stdout, "no colours in a pipe"


def test_colours_are_for_terminals(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(GOOD)
    parent, child = pty.openpty()
    environment = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR")} | {
        "TERM": "xterm-256color"
    }
    try:
        subprocess.run([FINETUNE, "validate", str(path)], stdout=child, env=environment, check=True)
        assert b"\x1b[" in os.read(parent, 4096)
    finally:
        os.close(child)
        os.close(parent)


def test_the_exit_codes_are_documented() -> None:
    assert "0 all are valid, 1 one is not, 2 wrong usage" in " ".join(run("validate", "--help")[1].replace("│", " ").split())
