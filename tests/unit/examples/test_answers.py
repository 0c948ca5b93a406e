"""The comparison of base and adapter tells the truth, and its exit status follows from it."""

import json
import sys
from pathlib import Path
from typing import Any

import answers
import base_model
import dataset
import pytest

pytestmark = [
    pytest.mark.torch,
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),  # PEFT 0.21 still asks by the old name
]
RECIPE = base_model.Recipe(hidden=64, layers=1, heads=2, key_value_heads=1, intermediate=128, steps=2, batch=2, length=32, vocabulary=600)
ROWS = [dataset.Row("What does `a.b` do?\n", "Return the value of a."), dataset.Row("What is `c`?\n", "Open the file and read it.")]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("peft", reason="needs the trainer's extra")
    folder = tmp_path_factory.mktemp("answers") / "model"
    base_model.build_model(folder, RECIPE)
    return folder


@pytest.fixture(scope="module")
def rows_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("rows") / dataset.HELD_OUT_FILE
    path.write_text("".join(json.dumps({"prompt": row.prompt, "completion": row.completion}) + "\n" for row in ROWS), encoding="utf-8")
    return path


def save_adapter(base: Path, folder: Path, steps: int) -> Path:
    """Save an adapter after ``steps`` steps on the very rows that it is asked about; one without a step changes nothing."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.manual_seed(0)
    tokenizer: Any = AutoTokenizer.from_pretrained(base)
    model: Any = get_peft_model(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), LoraConfig(target_modules="all-linear"))
    optimizer = torch.optim.AdamW([item for item in model.parameters() if item.requires_grad], lr=1e-2)
    for _ in range(steps):
        for row in ROWS:
            tokens = torch.tensor([tokenizer(row.prompt + row.completion + tokenizer.eos_token)["input_ids"]])
            model(input_ids=tokens, labels=tokens).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(folder)
    return folder


def run(monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    monkeypatch.setattr(sys, "argv", ["answers.py", *map(str, words)])
    return answers.main()


@pytest.mark.parametrize(("steps", "status"), [(10, 0), (0, 1)], ids=["learnt", "learnt nothing"])
def test_exit_status_says_whether_the_adapter_is_better(
    base: Path,
    rows_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    steps: int,
    status: int,
) -> None:
    adapter = save_adapter(base, tmp_path / "adapter", steps)
    words = ("--base", base, "--adapter", adapter, "--rows", rows_file, "--new-tokens", 5, "--json")
    assert run(monkeypatch, *words) == status
    said = json.loads(capsys.readouterr().out)
    assert said["is_better"] is (status == 0)
    assert said["held_out_rows"] == len(ROWS)
    assert (said["question"], said["expected"]) == ("What does `a.b` do?", "Return the value of a.")
    assert (said["adapter_loss"] < said["base_loss"]) is (status == 0)


def test_loss_is_the_models_own_over_completions_and_their_end(base: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(base)
    model: Any = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    prompt = tokenizer(ROWS[0].prompt)["input_ids"]
    whole = tokenizer(ROWS[0].prompt + ROWS[0].completion + base_model.END)["input_ids"]
    assert whole[: len(prompt)] == prompt
    assert whole[-1] == tokenizer.eos_token_id
    labels = torch.tensor([[-100] * len(prompt) + whole[len(prompt) :]])
    with torch.inference_mode():
        expected = model(input_ids=torch.tensor([whole]), labels=labels).loss.item()
        assert answers.compute_loss(model, tokenizer, ROWS[:1]) == pytest.approx(expected, rel=1e-5)


def test_wrong_input_is_named(
    base: Path, rows_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        run(monkeypatch, "--base", base, "--adapter", tmp_path, "--rows", rows_file)
    assert ended.value.code == 2
    assert "adapter_config.json is missing" in capsys.readouterr().err
    (tmp_path / "adapter_config.json").touch()
    assert run(monkeypatch, "--base", base, "--adapter", tmp_path, "--rows", rows_file, "--question", 2) == 2
