"""The operator's process, up to where it needs a cluster."""

import pytest

from finetune_operator.main import main


def test_an_environment_that_cannot_be_used_is_said_line_by_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["finetune-operator"])
    monkeypatch.delenv("FINETUNE_TRAINER_IMAGE", raising=False)
    monkeypatch.setenv("FINETUNE_WORKERS", "0")
    with pytest.raises(SystemExit) as left:
        main()
    assert str(left.value).splitlines()[0] == "The environment can't be used:"
    assert "FINETUNE_TRAINER_IMAGE: must name the trainer's image" in str(left.value)
    assert "FINETUNE_WORKERS='0': must be a whole number from 1 to 256" in str(left.value)


def test_it_takes_no_arguments(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["finetune-operator", "--verbose"])
    with pytest.raises(SystemExit):
        main()
    assert "unrecognized arguments" in capsys.readouterr().err
