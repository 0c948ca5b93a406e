"""Our tokenised rows against those that TRL's SFTTrainer makes of the same examples: ids, labels, and packing."""

from pathlib import Path
from typing import Any

import pytest

from finetune_api.spec import TrainingSpec
from finetune_trainer.data import Examples, prepare_data
from finetune_trainer.data.shapes import Row
from tests.support.tiny_model import TEMPLATE_WITH_MARKERS, TEMPLATE_WITHOUT_MARKERS, build_model, build_tokenizer

pytestmark = [
    pytest.mark.torch,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::ImportWarning"),
]

PAIRS: list[Row] = [{"prompt": f"What does f{n} do?", "completion": f" Return {n} times {'x' * (n % 17)}."} for n in range(30)]
PAIRS_ENDED: list[Row] = [{"prompt": "Say", "completion": " hello<|eos|>"}]
TEXTS: list[Row] = [{"text": f"The quick brown fox {n}. " * (1 + n % 5)} for n in range(30)]
CHATS: list[Row] = [
    {
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": f"What is {n}?"},
            {"role": "assistant", "content": f"A number: {n}."},
            {"role": "user", "content": "And äöü 你好?"},
            {"role": "assistant", "content": "Text 🙂." * (1 + n % 6)},
        ]
    }
    for n in range(30)
]
TURNS: list[Row] = [
    {"prompt": [{"role": "user", "content": f"What is {n}?"}], "completion": [{"role": "assistant", "content": f"It is {n}."}]}
    for n in range(30)
]


def trl_rows(rows: list[Row], tokenizer: Any, folder: Path, max_length: int = 48, **options: Any) -> list[tuple[list[int], list[int]]]:
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    trainer = SFTTrainer(
        model=build_model(len(tokenizer)),
        args=SFTConfig(output_dir=str(folder), use_cpu=True, bf16=False, report_to="none", max_length=max_length, **options),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
    )
    return [(row["input_ids"], row["labels"]) for row in trainer.train_dataset]


def our_rows(rows: list[Row], tokenizer: Any, format_: str, loss_on: str, folder: Path, max_length: int = 48) -> Any:
    training = TrainingSpec(max_length=max_length, loss_on=loss_on)  # type: ignore[arg-type]
    examples = Examples.from_rows(rows, [], format_, format_, "sha256:" + "0" * 64)
    return prepare_data(examples, tokenizer, training, folder=folder / "prepared")


CASES = [
    pytest.param(PAIRS + PAIRS_ENDED, None, "completion", {}, id="pairs"),
    pytest.param(PAIRS, None, "all", {"completion_only_loss": False}, id="pairs-learnt-whole"),
    pytest.param(TEXTS, None, "completion", {}, id="texts"),
    pytest.param(CHATS, TEMPLATE_WITH_MARKERS, "completion", {"assistant_only_loss": True}, id="messages"),
    pytest.param(CHATS, TEMPLATE_WITHOUT_MARKERS, "all", {}, id="messages-learnt-whole"),
    pytest.param(TURNS, TEMPLATE_WITHOUT_MARKERS, "completion", {}, id="turns"),
]


@pytest.mark.parametrize(("rows", "template", "loss_on", "options"), CASES)
def test_rows_equal_trls(rows: list[Row], template: str | None, loss_on: str, options: dict[str, Any], tmp_path: Path) -> None:
    theirs = trl_rows(rows, build_tokenizer(template), tmp_path, **options)
    prepared = our_rows(rows, build_tokenizer(template), "messages", loss_on, tmp_path)
    assert [(row["input_ids"], row["labels"]) for row in prepared.train] == theirs
    assert prepared.counts.examples == len(theirs)


@pytest.mark.parametrize("times", [1, 40])
@pytest.mark.parametrize(("rows", "template", "loss_on", "options"), [CASES[0], CASES[3]])
def test_trainer_packs_our_rows_as_its_own(
    rows: list[Row],
    template: str | None,
    loss_on: str,
    options: dict[str, Any],
    times: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also where they are more than are written, read and packed at a time."""
    from trl import SFTConfig, SFTTrainer

    monkeypatch.setattr("finetune_trainer.data.tables._BATCH_BYTES", 2**12)
    rows = rows * times
    theirs = trl_rows(rows, build_tokenizer(template), tmp_path, 256, packing=True, **options)
    tokenizer = build_tokenizer(template)
    trainer = SFTTrainer(
        model=build_model(len(tokenizer)),
        args=SFTConfig(output_dir=str(tmp_path), use_cpu=True, bf16=False, report_to="none", max_length=256, packing=True),
        train_dataset=our_rows(rows, tokenizer, "messages", loss_on, tmp_path, 256).train,
        processing_class=tokenizer,
    )
    ours = [(row["input_ids"], row["labels"]) for row in trainer.train_dataset]
    assert len(ours) < len(rows)
    assert ours == theirs


def test_templates_without_markers_get_the_same_mask_as_those_with(tmp_path: Path) -> None:
    marked = our_rows(CHATS, build_tokenizer(TEMPLATE_WITH_MARKERS), "messages", "completion", tmp_path / "marked").train
    rendered = our_rows(CHATS, build_tokenizer(TEMPLATE_WITHOUT_MARKERS), "messages", "completion", tmp_path / "rendered").train
    assert rendered["input_ids"] == marked["input_ids"]
    newline = build_tokenizer()("\n")["input_ids"]
    for with_markers, by_prefix in zip(marked["labels"], rendered["labels"], strict=True):
        # rendering counts the newline after a turn's end to the turn; markers are set before it
        differing = [label for label, other in zip(by_prefix, with_markers, strict=True) if label != other]
        assert set(differing) <= set(newline)
