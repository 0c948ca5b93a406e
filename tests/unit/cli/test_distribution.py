"""What surrounds the command line: its reference, its plugin for kubectl, completion there."""

import hashlib
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import yaml

from finetune_cli import kubectl_completion, reference
from finetune_cli.exit_codes import CliExit
from finetune_cli.krew import ARCHIVE, main

ROOT = Path(__file__).parents[3]


def test_the_reference_is_current() -> None:
    assert reference.main(["--check"]) == 0, "run python -m finetune_cli.reference"


def test_the_reference_names_every_exit_code(tmp_path: Path) -> None:
    assert reference.main(["--check", "--root", str(tmp_path)]) == 1
    text = reference.build_reference()
    assert all(f"\n| {int(code)} | " in text for code in CliExit)


def test_the_plugin_s_archive_is_what_its_manifest_says(tmp_path: Path) -> None:
    words = ["--url", "https://example.com/kubectl-finetune.tar.gz", "--release", "1.2.3"]
    assert main([*words, "--to", str(tmp_path / "one")]) == 0
    assert main([*words, "--to", str(tmp_path / "two")]) == 0
    archive = (tmp_path / "one" / ARCHIVE).read_bytes()
    assert archive == (tmp_path / "two" / ARCHIVE).read_bytes(), "the same input gives the same archive"
    manifest = yaml.safe_load((tmp_path / "one/finetune.yaml").read_text())
    assert manifest["spec"]["version"] == "v1.2.3"
    assert {platform["sha256"] for platform in manifest["spec"]["platforms"]} == {hashlib.sha256(archive).hexdigest()}


def test_the_launcher_runs_the_command_that_is_there_or_says_what_is_missing(tmp_path: Path) -> None:
    assert main(["--url", "https://example.com/a", "--release", "1.2.3", "--to", str(tmp_path)]) == 0
    with tarfile.open(tmp_path / ARCHIVE) as tar:
        tar.extractall(tmp_path, filter="data")
    launcher = tmp_path / "kubectl-finetune"
    path = f"{Path(sys.executable).parent}{os.pathsep}/usr/bin{os.pathsep}/bin"
    told = subprocess.run([launcher, "--version"], env={"PATH": path}, capture_output=True, text=True, check=True)
    assert told.stdout.startswith("finetune 0.")
    (tmp_path / "bin").mkdir()
    missing = subprocess.run(["/bin/sh", launcher], env={"PATH": str(tmp_path / "bin")}, capture_output=True, text=True, check=False)
    assert missing.returncode == 127
    assert "finetune-operator[cli]==1.2.3" in missing.stderr


@pytest.mark.parametrize(
    ("words", "expected", "directive"),
    [(["sta"], ["status"], ":4"), (["logs", "--fol"], ["--follow"], ":4"), (["completion", "f"], ["fish"], ":4")],
)
def test_kubectl_completes_the_plugin(
    words: list[str], expected: list[str], directive: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["kubectl_complete-finetune", *words])
    kubectl_completion.main()
    *lines, last = capsys.readouterr().out.splitlines()
    assert [line.partition("\t")[0] for line in lines] == expected
    assert last == directive
