"""Prompts are taken from rows of every shape, and written as those of training."""

from typing import Any

import pytest

from finetune_trainer.evaluation.prompts import SamplePrompt, choose_samples, read_prompt, render_prompt

USER = {"role": "user", "content": "Hello?"}
ANSWER = {"role": "assistant", "content": "Hi."}


class Templated:
    chat_template = "a template"

    def apply_chat_template(self, messages: list[dict[str, str]], **options: Any) -> str:
        assert options == {"tokenize": False, "add_generation_prompt": True}
        return "".join(f"<{message['role']}>{message['content']}" for message in messages) + "<assistant>"


class Plain:
    chat_template = None


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"prompt": "Hello?", "completion": "Hi."}, SamplePrompt("Hello?", "Hi.")),
        ({"prompt": [USER], "completion": [ANSWER]}, SamplePrompt([USER], "Hi.")),
        ({"prompt": [USER], "chosen": [ANSWER], "rejected": [ANSWER]}, SamplePrompt([USER], "Hi.")),
        ({"messages": [USER, ANSWER]}, SamplePrompt([USER], "Hi.")),
        ({"text": "abcdefgh"}, SamplePrompt("abcd", "efgh")),
    ],
)
def test_a_row_becomes_prompt_and_answer(row: dict[str, Any], expected: SamplePrompt) -> None:
    assert choose_samples([row], 4, []) == [expected]


@pytest.mark.parametrize("row", [{"messages": [USER]}, {"prompt": []}, {"prompt": [ANSWER]}, {"other": 1}, {"text": ""}])
def test_a_row_without_a_prompt_is_passed_over(row: dict[str, Any]) -> None:
    assert choose_samples([row], 4, []) == []


def test_samples_come_evenly_from_all_rows() -> None:
    rows = [{"prompt": str(number), "completion": "x"} for number in range(100)]
    assert [sample.prompt for sample in choose_samples(rows, 4, [])] == ["0", "25", "50", "75"]
    assert choose_samples(rows, 0, []) == choose_samples([], 4, []) == []


def test_prompts_of_the_specification_go_before_rows() -> None:
    assert choose_samples([{"prompt": "a", "completion": "b"}], 4, ["one", "two"]) == [SamplePrompt("one"), SamplePrompt("two")]


@pytest.mark.parametrize("value", [None, "", [], [ANSWER], [{"role": "user"}], ["text"], 7])
def test_what_is_no_prompt_is_none(value: object) -> None:
    assert read_prompt(value) is None


def test_prompts_are_written_as_the_rows_of_training() -> None:
    assert render_prompt("Hello?", Templated(), conversational=True, instruction=False) == "<user>Hello?<assistant>"
    assert render_prompt("Hello?", Templated(), conversational=False, instruction=False) == "Hello?"
    assert render_prompt([USER], Templated(), conversational=False, instruction=False) == "<user>Hello?<assistant>"
    assert "### Instruction:\nHello?" in render_prompt([USER], Plain(), conversational=False, instruction=True)
