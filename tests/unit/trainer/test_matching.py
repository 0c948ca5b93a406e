"""When an answer of a task counts."""

import pytest

from finetune_api.spec import TaskSpec
from finetune_api.spec.evaluation import TaskMatch
from finetune_trainer.data.faults import SourceRow
from finetune_trainer.errors import DataInvalid
from finetune_trainer.evaluation.matching import build_matcher, find_last_number
from finetune_trainer.evaluation.tasks import build_task, count_matches


@pytest.mark.parametrize(
    ("match", "expected", "answer", "counts"),
    [
        ("exact", "Paris", " Paris\n", True),
        ("exact", "Paris", "paris", False),
        ("exact", "é", "é", True),
        ("exact", "Paris", "Paris.", False),
        ("contains", "Paris", "It is Paris, I think", True),
        ("contains", "Paris", "It is Rome", False),
        ("regex", r"^\d{3}-\d{4}$", "555-1234", True),
        ("regex", r"^\d{3}-\d{4}$", "call 555-1234", False),
        ("regex", "a.b", "a\nb", True),
        ("numeric", "1,234.5", "The total is 1234.50 euros", True),
        ("numeric", "7", "First 7, then 8", False),
        ("numeric", "-3", "x = −3", True),
        ("numeric", "12", "no idea", False),
        ("numeric", "1e3", "1000", True),
    ],
)
def test_answers_count_as_the_task_says(match: TaskMatch, expected: str, answer: str, counts: bool) -> None:
    assert build_matcher(match, expected, ignore_case=False)(answer) is counts


@pytest.mark.parametrize(("match", "expected"), [("exact", "PARIS"), ("contains", "ARI"), ("regex", "^PAR")])
def test_case_can_be_ignored(match: TaskMatch, expected: str) -> None:
    assert build_matcher(match, expected, ignore_case=True)("paris")


def test_no_expression_takes_longer_than_its_answer_is_long() -> None:
    """With Python's own engine this would not end within the age of the universe."""
    matches = build_matcher("regex", "(a+)+$", ignore_case=False)
    assert not matches("a" * 60_000 + "b")


@pytest.mark.parametrize(
    ("match", "expected", "words"),
    [("regex", "(?=a)", "look-around"), ("regex", "(", "RE2"), ("numeric", "many", "no number"), ("exact", "  ", "empty")],
)
def test_what_cannot_be_compared_with_is_refused(match: TaskMatch, expected: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        build_matcher(match, expected, ignore_case=False)


@pytest.mark.parametrize(
    ("text", "number"), [("", None), ("1,23", 23.0), ("3.", 3.0), (".5", 0.5), ("1e999", None), ("a1b2", 2.0), ("1,000,000", 1e6)]
)
def test_the_last_number_is_found(text: str, number: float | None) -> None:
    assert find_last_number(text) == number


def test_every_unusable_row_is_named() -> None:
    spec = TaskSpec(name="sums", uri="s3://bucket/tasks.jsonl", match="numeric")
    rows = [
        SourceRow({"prompt": "1 + 1?", "answer": 2}, "tasks.jsonl:1"),
        SourceRow({"question": "1 + 1?", "answer": 2}, "tasks.jsonl:2"),
        SourceRow({"prompt": "1 + 1?"}, "tasks.jsonl:3"),
        SourceRow({"messages": [{"role": "assistant", "content": "hi"}], "answer": "2"}, "tasks.jsonl:4"),
        SourceRow({"prompt": "1 + 1?", "answer": "two"}, "tasks.jsonl:5"),
    ]
    with pytest.raises(DataInvalid) as refused:
        build_task(spec, rows)
    assert all(f"tasks.jsonl:{line}" in refused.value.message for line in (2, 3, 4, 5))
    assert "tasks.jsonl:1:" not in refused.value.message


def test_only_the_first_rows_are_asked() -> None:
    spec = TaskSpec(name="sums", uri="s3://bucket/tasks.jsonl", match="numeric", max_examples=2)
    task = build_task(spec, [SourceRow({"prompt": str(number), "answer": number}, f"t:{number}") for number in range(5)])
    assert task.prompts == ["0", "1"]
    assert count_matches(task, ["0", "0"]) == 1
