"""Formats of rows: told apart, normalised, refused."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_api.spec.objective import OBJECTIVE_FORMATS
from finetune_trainer.data.faults import SourceRow
from finetune_trainer.data.shapes import NEEDS, detect_format
from finetune_trainer.data.shaping import shape_rows
from finetune_trainer.errors import DataInvalid

HI = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]


def source(*rows: dict[str, Any]) -> list[SourceRow]:
    return [SourceRow(row, f"data.jsonl:{number}") for number, row in enumerate(rows, start=1)]


@pytest.mark.parametrize(
    ("columns", "format_"),
    [
        ({"messages"}, "messages"),
        ({"messages", "id", "source"}, "messages"),
        ({"prompt", "completion"}, "prompt-completion"),
        ({"instruction", "output"}, "instruction"),
        ({"instruction", "input", "output", "text"}, "instruction"),
        ({"conversations"}, "sharegpt"),
        ({"conversation", "system"}, "sharegpt"),
        ({"text"}, "text"),
        ({"text", "label"}, "text"),
    ],
)
def test_format_is_told_by_columns(columns: set[str], format_: str) -> None:
    assert detect_format(columns) == format_


@pytest.mark.parametrize("columns", [set(), {"question", "answer"}, {"completion"}, {"instruction", "input"}, {"Messages"}])
def test_unknown_columns_are_listed_with_what_each_format_needs(columns: set[str]) -> None:
    with pytest.raises(DataInvalid) as caught:
        detect_format(columns)
    assert all(name in caught.value.message for name in (*columns, *OBJECTIVE_FORMATS["sft"]))


def test_columns_of_two_formats_are_refused() -> None:
    with pytest.raises(DataInvalid, match=r"several formats \(messages, prompt-completion\); set dataset.format"):
        detect_format({"messages", "prompt", "completion"})


def test_mixed_rows_are_refused_with_the_first_of_each() -> None:
    rows = source({"messages": HI}, {"prompt": "a", "completion": "b"}, {"messages": HI})
    with pytest.raises(DataInvalid, match=r"messages \(first at data.jsonl:1\), prompt-completion \(first at data.jsonl:2\)"):
        shape_rows(rows)


def test_columns_without_a_value_do_not_count() -> None:
    # a Parquet file has every column in every row
    assert shape_rows(source({"messages": HI, "prompt": None, "completion": None}))[0] == "messages"


def test_given_format_goes_before_the_columns() -> None:
    rows = source({"messages": HI, "text": "t"})
    assert shape_rows(rows, "text") == ("text", source({"text": "t"}))


@pytest.mark.parametrize(
    ("format_", "row", "expected"),
    [
        ("messages", {"messages": HI, "id": 7}, {"messages": HI}),
        ("messages", {"messages": [HI[0], {"role": "assistant", "content": [{"type": "text", "text": "Hello"}]}]}, {"messages": HI}),
        ("messages", {"messages": [{**HI[0], "tool_calls": None}, HI[1]]}, {"messages": HI}),
        ("sharegpt", {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]}, {"messages": HI}),
        ("sharegpt", {"conversation": HI}, {"messages": HI}),
        (
            "sharegpt",
            {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}], "system": "S"},
            {"messages": [{"role": "system", "content": "S"}, *HI]},
        ),
        ("prompt-completion", {"prompt": "Hi", "completion": "Hello"}, {"prompt": "Hi", "completion": "Hello"}),
        ("prompt-completion", {"prompt": HI[:1], "completion": HI[1:]}, {"prompt": HI[:1], "completion": HI[1:]}),
        ("instruction", {"instruction": "Hi", "input": "", "output": "Hello"}, {"prompt": HI[:1], "completion": HI[1:]}),
        (
            "instruction",
            {"instruction": "Add", "input": "1 2", "output": "3", "system": "S"},
            {
                "prompt": [{"role": "system", "content": "S"}, {"role": "user", "content": "Add\n\n1 2"}],
                "completion": [{"role": "assistant", "content": "3"}],
            },
        ),
        ("text", {"text": "t", "label": 1}, {"text": "t"}),
    ],
)
def test_rows_become_trls_shapes(format_: Any, row: dict[str, Any], expected: dict[str, Any]) -> None:
    assert shape_rows(source(row), format_)[1] == source(expected)


@pytest.mark.parametrize(
    ("format_", "row", "word"),
    [
        ("messages", {}, "messages is a"),
        ("messages", {"messages": "Hi"}, "a text, not a list"),
        ("messages", {"messages": []}, "messages is empty"),
        ("messages", {"messages": ["Hi"]}, r"messages\[0\] is a text"),
        ("messages", {"messages": [{"role": "human", "content": "x"}]}, "'human', not one of system, user, assistant"),
        ("messages", {"messages": [{"role": "user", "content": None}, HI[1]]}, r"messages\[0\].content is missing"),
        ("messages", {"messages": [{"role": "user", "content": 3}]}, "a number, not a text"),
        ("messages", {"messages": HI[:1]}, "no answer of the assistant"),
        ("messages", {"messages": [*HI, {"role": "system", "content": "x"}]}, "must come first"),
        ("messages", {"messages": [*HI, {"role": "tool", "content": "x"}]}, "tool calls are not supported"),
        ("messages", {"messages": [{**HI[0], "tool_calls": [{}]}, HI[1]]}, "has tool calls"),
        ("messages", {"messages": HI, "tools": [{"name": "f"}]}, "has tools"),
        ("messages", {"messages": HI, "images": [b"x"]}, "only text is supported"),
        ("messages", {"messages": [{"role": "user", "content": [{"type": "image_url"}]}, HI[1]]}, "'image_url'"),
        ("sharegpt", {"conversations": [{"from": "martian", "value": "x"}]}, "'martian'"),
        ("prompt-completion", {"prompt": "a"}, "completion is missing"),
        ("prompt-completion", {"prompt": "a", "completion": " "}, "completion is empty"),
        ("prompt-completion", {"prompt": HI, "completion": HI[1:]}, "prompt ends with an answer"),
        ("prompt-completion", {"prompt": HI[:1], "completion": HI[:1]}, "begins with the role user"),
        ("prompt-completion", {"prompt": "a", "completion": "\ud800"}, "surrogate"),
        ("instruction", {"instruction": " ", "output": "x"}, "instruction is empty"),
        ("instruction", {"instruction": "a", "output": None}, "output is missing"),
        ("text", {"text": ""}, "text is empty"),
        ("text", {"text": 1}, "a number"),
    ],
)
def test_malformed_rows_are_refused_with_their_place(format_: Any, row: dict[str, Any], word: str) -> None:
    with pytest.raises(DataInvalid, match=word) as caught:
        shape_rows(source({"messages": HI, "prompt": "a", "completion": "b", "text": "t"}, row), format_)
    assert "data.jsonl:2" in caught.value.message


def test_many_faults_are_listed_at_once_and_counted() -> None:
    with pytest.raises(DataInvalid) as caught:
        shape_rows(source(*[{"text": None}] * 25), "text")
    assert caught.value.message.count("data.jsonl:") == 20
    assert "… and 5 more" in caught.value.message


def test_texts_and_messages_can_not_mix_in_pairs() -> None:
    rows = source({"prompt": "a", "completion": "b"}, {"prompt": HI[:1], "completion": HI[1:]})
    with pytest.raises(DataInvalid, match="convert them to one"):
        shape_rows(rows, "prompt-completion")


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["role", "content", "from", "value", "type", "text"]), inner)
    ),
    max_leaves=8,
)
COLUMNS = st.sampled_from(
    ["messages", "conversations", "conversation", "prompt", "completion", "instruction", "input", "output", "text", "system", "id", "tools"]
)


@given(st.lists(st.dictionaries(COLUMNS, ANYTHING, max_size=4), min_size=1, max_size=4), st.sampled_from(["auto", *NEEDS]))
def test_any_rows_are_normalised_or_refused_and_never_crash(rows: list[dict[str, Any]], format_: Any) -> None:
    try:
        normalised = shape_rows(source(*rows), format_)[1]
    except DataInvalid:
        return
    assert len(normalised) == len(rows)
    for row in (placed.value for placed in normalised):
        assert set(row) in ({"messages"}, {"prompt", "completion"}, {"text"})
        for value in row.values():
            assert isinstance(value, str) or all(set(message) == {"role", "content"} for message in value)


@given(st.sets(st.text(max_size=12) | COLUMNS))
def test_any_columns_have_a_format_or_a_reason(columns: set[str]) -> None:
    try:
        format_ = detect_format(columns)
    except DataInvalid as error:
        message = error.message
    else:
        assert format_ in NEEDS
        return
    assert "What each format needs" in message
