"""A long command's failure is told with its last words, and nothing of it is left running."""

from pathlib import Path

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
    monkeypatch.setattr(progress, "_FIRST_REPORT", 0.3)
    progress.run_shown(["sh", "-c", "echo STEP 1: quick; echo STEP 2: slow; sleep 1; echo STEP 3: quick"], "building", tmp_path)
    shown = capsys.readouterr().err
    assert "STEP 2: slow" in shown
    assert "STEP 1" not in shown
    assert "STEP 3" not in shown


def test_what_takes_too_long_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_TIMEOUT", 0.2)
    monkeypatch.setattr(progress, "_FIRST_REPORT", 0.1)
    with pytest.raises(DevClusterError, match="building: not done after"):
        progress.run_shown(["sh", "-c", 'echo $$ >"$TMPDIR/pid"; exec sleep 60'], "building", tmp_path)
    pid = int((tmp_path / "pid").read_text())
    assert not Path(f"/proc/{pid}").exists()
