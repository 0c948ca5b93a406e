"""A long command's failure is told with its last words, and nothing of it is left running."""

import subprocess
from pathlib import Path
from typing import Any

import pytest

from finetune_devcluster import progress
from finetune_devcluster.errors import DevClusterError


def test_a_failure_has_the_end_of_the_output(tmp_path: Path) -> None:
    script = "for i in $(seq 100); do echo line $i; done; echo the reason >&2; exit 3"
    with pytest.raises(DevClusterError) as caught:
        progress.run_shown(["sh", "-c", script], "building", tmp_path)
    lines = str(caught.value).splitlines()
    assert lines[0] == "building: sh ended with 3:"
    assert lines[-1] == "the reason"
    assert "line 1" not in lines


def test_temporary_files_go_where_they_are_told(tmp_path: Path) -> None:
    progress.run_shown(["sh", "-c", 'echo here >"$TMPDIR/file"'], "building", tmp_path)
    assert (tmp_path / "file").read_text() == "here\n"


def test_a_quick_step_is_not_shown_and_a_slow_one_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    show, script = (
        progress._show,
        "echo STEP 1: quick; echo STEP 2: slow; until test -e $TMPDIR/seen; do sleep 0.02; done; echo STEP 3: quick",
    )

    def show_and_tell(name: str, seconds: float, text: str) -> None:
        show(name, seconds, text)
        if "STEP 2" in text:
            (tmp_path / "seen").touch()  # the slow step takes until it is shown

    monkeypatch.setattr(progress, "_show", show_and_tell)
    monkeypatch.setattr(progress, "_FIRST_REPORT", 0.3)
    progress.run_shown(["sh", "-c", script], "building", tmp_path)
    shown = capsys.readouterr().err
    assert "STEP 2: slow" in shown
    assert "STEP 1" not in shown
    assert "STEP 3" not in shown


def test_what_takes_too_long_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_TIMEOUT", 0.2)
    monkeypatch.setattr(progress, "_FIRST_REPORT", 0.1)
    started: list[subprocess.Popen[str]] = []
    start = subprocess.Popen

    def start_and_keep(*words: Any, **options: Any) -> subprocess.Popen[str]:
        started.append(start(*words, **options))
        return started[-1]

    monkeypatch.setattr(progress.subprocess, "Popen", start_and_keep)
    with pytest.raises(DevClusterError, match="building: not done after"):
        progress.run_shown(["sleep", "60"], "building", tmp_path)
    (process,) = started
    assert not Path(f"/proc/{process.pid}").exists()
