"""What is checked before the first step: truncation, nothing to learn, the end of answers, and the example in the log."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_api.spec import TrainingSpec
from finetune_trainer.data import Examples, prepare_data
from finetune_trainer.data.faults import SourceRow
from finetune_trainer.data.preflight import check_examples, prove_learnable, render_example
from finetune_trainer.data.shaping import shape_rows
from finetune_trainer.data.tokenizing import IGNORED, Tokenised
from finetune_trainer.errors import ConfigInvalid, DataInvalid
from tests.support.tiny_model import TEMPLATE_WITH_MARKERS, TEMPLATE_WITHOUT_MARKERS, build_tokenizer

EOS = 99
STOPS = frozenset({EOS})


def example(prompt: int, answer: int, *, end: bool = True) -> Tokenised:
    ids = [1] * prompt + [2] * answer + ([EOS] if end else [])
    return Tokenised(ids, [IGNORED] * prompt + ids[prompt:])


def test_long_examples_are_cut_and_those_with_nothing_left_dropped() -> None:
    checked = check_examples([example(4, 3), example(4, 20), example(30, 3), example(16, 1)], 16, STOPS)
    assert (len(checked.input_ids), checked.truncated, checked.dropped, checked.whole, checked.unended) == (2, 3, 2, 1, 0)
    assert [len(ids) for ids in checked.input_ids] == [8, 16]
    prove_learnable(checked, 16, "dataset")


def test_the_first_token_alone_is_nothing_to_learn() -> None:
    assert check_examples([Tokenised([EOS], [EOS]), Tokenised([EOS, 1], [EOS, IGNORED])], 16, STOPS).dropped == 2


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30), st.booleans()), max_size=20), st.integers(2, 40))
def test_counts_add_up(shapes: list[tuple[int, int, bool]], max_length: int) -> None:
    examples = [example(prompt, answer, end=end) for prompt, answer, end in shapes]
    checked = check_examples(examples, max_length, STOPS)
    assert len(checked.input_ids) + checked.dropped == len(examples)
    assert checked.truncated == sum(len(each.input_ids) > max_length for each in examples)
    assert all(len(ids) == len(labels) <= max_length for ids, labels in zip(checked.input_ids, checked.labels, strict=True))
    assert all(any(label != IGNORED for label in labels[1:]) for labels in checked.labels)


def test_answers_without_an_end_are_refused() -> None:
    checked = check_examples([example(4, 3), example(4, 3, end=False)], 16, STOPS)
    with pytest.raises(DataInvalid, match=r"in 1 of 2 untruncated examples .* is not learnt"):
        prove_learnable(checked, 16, "dataset")


def test_an_end_in_an_earlier_turn_does_not_count() -> None:
    ids = [1, 2, EOS, 1, 2, 2]
    checked = check_examples([Tokenised(ids, [IGNORED, 2, EOS, IGNORED, 2, 2])], 16, STOPS)
    assert checked.unended == 1


def test_data_with_nothing_to_learn_is_refused() -> None:
    with pytest.raises(DataInvalid, match=r"nothing is left to learn in any of its 1 examples.*Raise training.maxLength"):
        prove_learnable(check_examples([example(40, 3)], 16, STOPS), 16, "dataset")


def test_rendered_example_marks_what_is_learnt() -> None:
    text = render_example([1, 1, 2, 2, 3], [IGNORED, IGNORED, 2, 2, IGNORED], lambda ids: "".join(map(str, ids)))
    assert text == "11⟦22⟧3"
    assert render_example([7] * 10, [7] * 10, lambda ids: "x" * len(ids), max_tokens=4) == "⟦xx … 6 tokens … xx⟧"
    assert render_example([], [], str) == ""


def prepare(rows: list[dict[str, Any]], format_: Any, tokenizer: Any, held: list[dict[str, Any]] | None = None, **training: Any) -> Any:
    def made(some: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [row.value for row in shape_rows([SourceRow(row, "x:1") for row in some], format_)[1]] if some else []

    examples = Examples.from_rows(made(rows), made(held or []), format_, format_, "sha256:" + "0" * 64)
    with TemporaryDirectory() as folder:  # what is mapped stays
        return prepare_data(examples, tokenizer, TrainingSpec(**training), folder=Path(folder, "prepared"))


CHAT = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]}


@pytest.mark.torch
@pytest.mark.filterwarnings("ignore::ImportWarning")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
class TestPrepare:
    def test_counts_and_sample(self) -> None:
        rows = [
            {"prompt": "Say hello", "completion": " world"},
            {"prompt": "x" * 400, "completion": "y"},
            {"prompt": "a", "completion": "b" * 300},
        ]
        data = prepare(rows, "prompt-completion", build_tokenizer(), rows[:2], max_length=64)
        assert data.counts.model_dump() == {
            "examples": 2,
            "evalExamples": 1,
            "dropped": 2,
            "truncated": 3,
            "duplicates": 0,
            "malformed": 0,
        }
        assert data.sample == "Say hello⟦ world<|eos|>⟧"
        assert data.train.column_names == ["input_ids", "labels"]
        assert max(map(len, data.train["input_ids"])) == 64

    def test_evaluation_data_with_nothing_to_learn_is_refused(self) -> None:
        held = {"messages": [{"role": "user", "content": "x" * 400}, CHAT["messages"][1]]}
        with pytest.raises(DataInvalid, match=r"evaluation data: nothing is left .*set dataset\.evalFraction to 0"):
            prepare([CHAT], "messages", build_tokenizer(TEMPLATE_WITH_MARKERS), [held], max_length=64)

    @pytest.mark.parametrize("template", [TEMPLATE_WITH_MARKERS, TEMPLATE_WITHOUT_MARKERS])
    def test_only_the_assistants_turns_are_learnt(self, template: str) -> None:
        messages = [*CHAT["messages"], {"role": "user", "content": "More"}, {"role": "assistant", "content": "Much more"}]
        data = prepare([{"messages": messages}], "messages", build_tokenizer(template))
        learnt = [part.split("⟧")[0].rstrip() for part in data.sample.split("⟦")[1:]]
        assert learnt == ["Hello<|end|>", "Much more<|end|>"]

    def test_instructions_follow_the_chat_template(self) -> None:
        row = {"instruction": "Add", "input": "1 2", "output": "3"}
        assert prepare([row], "instruction", build_tokenizer(TEMPLATE_WITH_MARKERS)).sample == (
            "<|turn|>user\nAdd\n\n1 2<|end|>\n<|turn|>assistant\n⟦3<|end|>\n⟧"
        )

    def test_instructions_are_plain_text_without_a_template(self) -> None:
        row = {"instruction": "Add", "input": "1 2", "output": "3", "system": "Be brief."}
        assert prepare([row], "instruction", build_tokenizer()).sample == (
            "Be brief.\n\n### Instruction:\nAdd\n\n1 2\n\n### Response:\n⟦3<|eos|>⟧"
        )

    def test_conversations_without_a_template_are_refused(self) -> None:
        with pytest.raises(ConfigInvalid, match=r"no chat template .*chat_template.jinja"):
            prepare([CHAT], "messages", build_tokenizer())

    def test_chatml_is_used_where_its_tokens_are(self) -> None:
        tokenizer = build_tokenizer(extra=("<|im_start|>", "<|im_end|>"))
        assert prepare([CHAT], "messages", tokenizer).sample == (
            "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n⟦Hello<|im_end|>⟧\n"
        )
        assert "im_start" in tokenizer.chat_template

    def test_template_that_never_ends_an_answer_is_refused(self) -> None:
        endless = "{% for message in messages %}{{ '<|turn|>' + message['role'] + '\n' + message['content'] + '\n' }}{% endfor %}"
        with pytest.raises(DataInvalid, match=r"in 1 of 1 untruncated examples the end of the answer .* is not learnt"):
            prepare([CHAT], "messages", build_tokenizer(endless), loss_on="all")

    def test_markers_that_leave_the_end_out_are_refused(self) -> None:
        outside = TEMPLATE_WITH_MARKERS.replace(
            "{{ message['content'] + '<|end|>' }}{% endgeneration %}", "{{ message['content'] }}{% endgeneration %}<|end|>"
        )
        assert outside != TEMPLATE_WITH_MARKERS
        with pytest.raises(DataInvalid, match="is not learnt"):
            prepare([CHAT], "messages", build_tokenizer(outside))

    def test_template_that_refuses_a_conversation_is_quoted(self) -> None:
        strict = "{% if messages|length > 1 %}{{ raise_exception('roles must alternate') }}{% endif %}" + TEMPLATE_WITHOUT_MARKERS
        with pytest.raises(DataInvalid, match="roles must alternate"):
            prepare([{"prompt": CHAT["messages"][:1], "completion": CHAT["messages"][1:]}], "prompt-completion", build_tokenizer(strict))

    @pytest.mark.parametrize("loss_on", ["all", "completion"])
    def test_of_many_conversations_the_one_that_is_refused_is_named(self, loss_on: str) -> None:
        strict = "{% if messages|length > 2 %}{{ raise_exception('too many turns') }}{% endif %}" + TEMPLATE_WITH_MARKERS
        long = {"messages": [{"role": "user", "content": "Once more"}, *CHAT["messages"][1:], *CHAT["messages"]]}
        with pytest.raises(DataInvalid, match=r"it begins 'Once more'.*too many turns"):
            prepare([CHAT, CHAT, long, CHAT], "messages", build_tokenizer(strict), loss_on=loss_on)

    def test_template_that_rewrites_earlier_turns_is_refused(self) -> None:
        rewriting = "{{ messages|length }}" + TEMPLATE_WITHOUT_MARKERS
        with pytest.raises(ConfigInvalid, match="renders earlier turns differently"):
            prepare([{"messages": CHAT["messages"] * 2}], "messages", build_tokenizer(rewriting))

    def test_tokenizer_without_eos_is_refused(self) -> None:
        tokenizer = build_tokenizer()
        tokenizer.eos_token = None
        with pytest.raises(ConfigInvalid, match="no EOS token"):
            prepare([{"text": "x y z"}], "text", tokenizer)
