"""The matrix has an answer for every cell, and keeps what it has trained. It is trained by `make matrix`, a slice in tests/trainer."""

import json
from pathlib import Path

import pytest

from benchmarks.matrix.axes import ADAPTERS, OBJECTIVES, PROCESSES, QUANTIZATIONS
from benchmarks.matrix.cells import Cell, build_trainer_config, check, list_cells
from benchmarks.matrix.endings import Ending, EndingBook, build_key
from benchmarks.matrix.page import build_page
from benchmarks.matrix.runner import look_up, read_ending
from finetune_api.spec import FineTuneJobSpec
from finetune_api.trainer_config import TrainerConfig

PAIR = Cell(("lora", "nf4", "sft", "2 processes"))


def test_every_choice_of_every_axis_is_refused_with_a_reason_or_can_be_trained(tmp_path: Path) -> None:
    cells = list(list_cells())
    assert len(cells) == len(ADAPTERS) * len(QUANTIZATIONS) * len(OBJECTIVES) * len(PROCESSES)
    endings, left = look_up(cells, tmp_path, EndingBook(tmp_path / "none"))
    assert len(endings) + len(left) == len(cells)
    assert all(ending.refused and ending.refused.startswith("spec.method.") for ending in endings.values())
    assert {task.cell.choices[2:] for task in left} >= {(name, "1 process") for name in OBJECTIVES} | {("sft", "2 processes")}
    for task in left:
        TrainerConfig.model_validate(build_trainer_config(task.cell, task.spec, tmp_path, 29400))


def test_a_kept_ending_is_not_trained_again_unless_its_settings_changed_or_it_failed(tmp_path: Path) -> None:
    spec = check(PAIR, tmp_path)
    assert isinstance(spec, FineTuneJobSpec)
    config = build_trainer_config(PAIR, spec, tmp_path, 0)
    key = build_key(config, tmp_path)
    file = tmp_path / "kept.jsonl"
    EndingBook(file).note(key, PAIR.name, Ending(losses=(2.0, 1.5), seconds=3.0))
    with file.open("a") as kept:
        kept.write('{"key": "cut')
    EndingBook(file).note("failed", "other", Ending(failed="no memory"))
    book = EndingBook(file)
    assert book.find(key) == Ending(losses=(2.0, 1.5), seconds=3.0)
    assert book.find("failed") is None
    assert book.find("failed", again=False) == Ending(failed="no memory")
    config["training"]["seed"] += 1
    assert book.find(build_key(config, tmp_path)) is None


@pytest.mark.parametrize(
    ("lines", "rewarded", "promised"),
    [
        ([{"eval_loss": 2.0}, {"loss": 1.8}, {"eval_loss": 1.5}], False, True),
        ([{"eval_loss": 2.0}, {"loss": 1.8}, {"eval_loss": 2.0}], False, False),
        ([{"eval_loss": 2.0}, {"loss": float("nan")}, {"eval_loss": 1.5}], False, False),
        ([{"eval_loss": 2.0}], False, False),
        ([{"eval_loss": 0.1, "eval_reward": 0.4}, {"eval_loss": 0.2, "eval_reward": 0.6}], True, True),
        ([{"eval_loss": 0.2, "eval_reward": 0.4}, {"eval_loss": 0.1, "eval_reward": 0.4}], True, False),
    ],
)
def test_a_cell_learns_where_its_held_out_loss_falls_or_its_reward_rises(
    lines: list[dict[str, float]], rewarded: bool, promised: bool, tmp_path: Path
) -> None:
    file = tmp_path / "metrics.jsonl"
    file.write_text("\n".join(map(json.dumps, lines)))
    assert read_ending(file, rewarded=rewarded).as_promised == promised


def test_the_page_says_what_was_not_run(tmp_path: Path) -> None:
    cells = list(list_cells())
    endings, left = look_up(cells, tmp_path, EndingBook(tmp_path / "none"))
    page = build_page(cells, endings)
    assert page.count("not run |") == len(left)
    assert f"{len(left)} not run yet" in page
