"""Several datasets in one: weights, duplicates, columns, malformed rows; and everything the same for the same seed."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_api.spec import DatasetSpec
from finetune_api.spec.objective import Objective
from finetune_trainer.data import Examples, load_examples
from finetune_trainer.data.split import rank_rows, repeat_by_weight
from finetune_trainer.errors import DataInvalid

Row = dict[str, Any]


def write(file: Path, rows: list[Row], broken: int = 0) -> str:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows) + "broken\n" * broken)
    return f"file://{file}"


def texts(prefix: str, count: int) -> list[Row]:
    return [{"text": f"{prefix} {number}"} for number in range(count)]


def load(folder: Path, uri: str, objective: Objective = "sft", seed: int = 1, **more: Any) -> Examples:
    dataset = DatasetSpec.model_validate({"uri": uri, "evalFraction": 0, **more})
    return load_examples(dataset, seed, folder / "work", {}, objective)


@given(st.integers(0, 40), st.floats(0.01, 5), st.integers(0, 5))
def test_a_weight_is_how_often_each_row_is_taken(count: int, weight: float, seed: int) -> None:
    ranks = rank_rows(texts("x", count), seed)
    numbers = repeat_by_weight(count, weight, ranks).tolist()
    assert numbers == repeat_by_weight(count, weight, ranks).tolist()
    assert abs(len(numbers) - weight * count) <= 1
    assert all(int(weight) <= numbers.count(number) <= int(weight) + 1 for number in range(count))


def test_datasets_are_mixed_by_weight_and_held_out_rows_are_never_repeated(tmp_path: Path) -> None:
    first, second = write(tmp_path / "a.jsonl", texts("a", 40)), write(tmp_path / "b.jsonl", texts("b", 20))
    examples = load(tmp_path, first, weight=0.5, additional=[{"uri": second, "weight": 2}], evalFraction=0.1)
    train = [row["text"] for row in examples.train]
    assert sum(text.startswith("a") for text in train) == 18
    assert sum(text.startswith("b") for text in train) == 36
    held = [row["text"] for row in examples.eval]
    assert sorted(text[0] for text in held) == ["a"] * 4 + ["b"] * 2
    assert not set(held) & set(train)


def test_datasets_of_different_formats_and_columns_go_together(tmp_path: Path) -> None:
    first = write(tmp_path / "a.jsonl", [{"question": "Hi", "reply": "Hello", "id": 1}])
    second = write(tmp_path / "b.jsonl", [{"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}])
    examples = load(tmp_path, first, columns={"prompt": "question", "completion": "reply"}, additional=[{"uri": second}])
    assert [part.format for part in examples.train_parts] == ["prompt-completion", "sharegpt"]
    assert examples.train[0] == {"prompt": "Hi", "completion": "Hello"}


def test_the_digest_is_of_all_datasets(tmp_path: Path) -> None:
    first, second = write(tmp_path / "a.jsonl", texts("a", 3)), write(tmp_path / "b.jsonl", texts("b", 3))
    before = load(tmp_path, first, additional=[{"uri": second}]).digest
    assert before != load(tmp_path, first).digest
    write(tmp_path / "b.jsonl", texts("c", 3))
    assert load(tmp_path, first, additional=[{"uri": second}]).digest != before


def test_duplicates_are_left_out_across_datasets_and_of_the_evaluation_data(tmp_path: Path) -> None:
    first = write(tmp_path / "a.jsonl", [*texts("a", 5), *texts("a", 2)])
    second, held = write(tmp_path / "b.jsonl", [*texts("a", 3), *texts("b", 2)]), write(tmp_path / "e.jsonl", texts("a", 1))
    more: Row = {"additional": [{"uri": second}], "eval": {"uri": held}, "evalFraction": None}
    dataset = DatasetSpec.model_validate({"uri": first, "deduplicate": True, **more})
    examples = load_examples(dataset, 1, tmp_path / "work", {})
    assert [row["text"] for row in examples.train] == ["a 1", "a 2", "a 3", "a 4", "b 0", "b 1"]
    assert examples.duplicates == 6


def test_malformed_rows_up_to_the_share_are_left_out_and_counted(tmp_path: Path) -> None:
    rows = [*texts("a", 7), {"text": ""}, {"question": "?"}]
    uri = write(tmp_path / "a.jsonl", rows, broken=1)
    examples = load(tmp_path, uri, maxMalformedFraction=0.3)
    assert (len(examples.train), examples.malformed) == (7, 3)
    with pytest.raises(DataInvalid, match=r"3 of 10 rows are malformed, more than dataset.maxMalformedFraction \(0.2\)") as caught:
        load(tmp_path, uri, maxMalformedFraction=0.2)
    assert all(place in caught.value.message for place in ("a.jsonl:8: text is empty", "a.jsonl:9: the columns", "a.jsonl:10: not JSON"))


def test_faults_of_an_additional_dataset_name_it(tmp_path: Path) -> None:
    first, second = write(tmp_path / "a.jsonl", texts("a", 3)), write(tmp_path / "b.jsonl", texts("b", 1), broken=1)
    with pytest.raises(DataInvalid, match=r"dataset.additional\[0\]: malformed rows \(1\):\nb.jsonl:2"):
        load(tmp_path, first, additional=[{"uri": second}])


HI, HELLO, GO = ({"role": role, "content": text} for role, text in (("user", "Hi"), ("assistant", "Hello"), ("assistant", "Go away")))
PAIR = {"prompt": [HI], "chosen": [HELLO], "rejected": [GO]}


@pytest.mark.parametrize(
    "row",
    [
        PAIR,
        {"chosen": [HI, HELLO], "rejected": [HI, GO]},
        {"prompt": "Hi", "chosen": [HI, HELLO], "rejected": [HI, GO], "messages": [HI, HELLO], "score": 3},
        {"prompt": [HI], "chosen": [HI, HELLO], "rejected": [HI, GO]},
        {"prompt": [HI], "chosen": "Hello", "rejected": "Go away"},
    ],
    ids=["explicit", "implicit", "ultrafeedback", "repeated", "texts"],
)
def test_every_way_of_writing_a_pair_becomes_the_same(tmp_path: Path, row: Row) -> None:
    for objective in ("dpo", "orpo", "reward"):
        assert load(tmp_path, write(tmp_path / "a.jsonl", [row]), objective).train[:] == [PAIR]


def test_kto_takes_labels_as_json_and_csv_have_them_and_unpairs_pairs(tmp_path: Path) -> None:
    labelled = [{"prompt": "Hi", "completion": "Hello", "label": label} for label in (True, 1, "true", False, 0, "False")]
    examples = load(tmp_path, write(tmp_path / "a.jsonl", labelled), "kto")
    assert [row["label"] for row in examples.train] == [True, True, True, False, False, False]
    unpaired = load(tmp_path, write(tmp_path / "a.jsonl", [PAIR]), "kto").train
    assert [(row["completion"], row["label"]) for row in unpaired] == [([HELLO], True), ([GO], False)]


def test_grpo_takes_prompts_with_and_without_answers(tmp_path: Path) -> None:
    rows = [{"prompt": "1+1?", "answer": 2}, {"prompt": "2+2?", "answer": "4"}, {"prompt": "?"}]
    assert [row["answer"] for row in load(tmp_path, write(tmp_path / "a.jsonl", rows), "grpo").train] == ["2", "4", None]
