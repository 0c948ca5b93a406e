"""YAML is read as kubectl reads it, and what stood where is known. tests/integration/cli holds the scalars to kubectl itself."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_cli.yaml_reader import MAX_CHARACTERS, YamlInvalid, read_documents, read_scalar


def read(text: str) -> object:
    (document,) = read_documents(text)
    return document.value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2e-4", 0.0002),
        ("1e5", 100000),
        ("1_000", 1000),
        ("017", 15),
        ("08", 8),
        ("0x1F", 31),
        ("-0b11", -3),
        ("2024-01-01", "2024-01-01"),
        ("1:30", "1:30"),
        ("y", True),
        ("off", False),
        ("~", None),
        ("", None),
        ("1e400", "1e400"),
        ("_1", "_1"),
        ("9" * 5000, "9" * 5000),
    ],
    ids=lambda value: str(value)[:12],
)
def test_a_plain_scalar_is_what_kubectl_takes_it_for(text: str, value: object) -> None:
    assert read_scalar(text) == value
    assert type(read_scalar(text)) is type(value)


def test_quotes_keep_text_text() -> None:
    assert read('{a: "2e-4", b: \'y\', c: "017", d: !!str 5}') == {"a": "2e-4", "b": "y", "c": "017", "d": "5"}


def test_what_json_cannot_say_is_read_all_the_same_and_refused_later() -> None:
    assert read("a: .inf") == {"a": math.inf}


@given(st.text(max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        documents = list(read_documents(text))
    except YamlInvalid as error:
        assert str(error)  # noqa: PT017  # either outcome is right
    else:
        assert all(document.value is not None for document in documents)


def test_keys_are_text_as_in_json() -> None:
    assert read("1: a\ntrue: b\n~: c\n") == {"1": "a", "true": "b", "null": "c"}


def test_aliases_and_merges_are_followed() -> None:
    assert read("a: &a {p: 1, q: 2}\nb: {<<: *a, q: 3}\nc: *a") == {"a": {"p": 1, "q": 2}, "b": {"p": 1, "q": 3}, "c": {"p": 1, "q": 2}}


def test_documents_come_apart_and_empty_ones_go() -> None:
    assert [document.value for document in read_documents("---\n---\na: 1\n---\n# nothing\n---\nb: 2\n")] == [{"a": 1}, {"b": 2}]


def test_a_value_is_found_where_it_stands() -> None:
    (document,) = read_documents("a:\n  b:\n    - c: 1\n    - d: 2\n")
    assert document.find_line(()) == 1
    assert document.find_line(("a", "b")) == 2
    assert document.find_line(("a", "b", 1, "d")) == 4
    assert document.find_line(("a", "missing", "below")) == 1
    assert document.find_line(("a", "b", 7)) == 2


BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 10)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "fault", "line"),
    [
        ("a: 1\nb: 2\na: 3\n", "the key 'a' is given twice", 3),
        ("spec:\n  x: {k: 1, k: 2}\n", "the key 'k' is given twice", 2),
        ("a: [1\nb: 2\n", "expected ',' or ']'", 2),
        ("a: 1\n\tb: 2\n", "cannot start any token", 2),
        ("a: *nowhere\n", "undefined alias", 1),
        ("a: &a [*a]\n", "alias to what it is part of", 1),
        ("a: !!python/object/apply:os.system [true]\n", "is not taken by kubectl", 1),
        ("a: !!timestamp 2024-01-01\n", "is not taken by kubectl", 1),
        ("a: !!binary aGk=\n", "is not taken by kubectl", 1),
        ("? [a]\n: 1\n", "key", None),
        ("a: \x00\n", "doesn't allow", 1),
        (BOMB, "values", None),
        ("[" * 5000, "nested too deeply", None),
        (" " * (MAX_CHARACTERS + 1), "longer than", None),
    ],
    ids=lambda value: None if isinstance(value, int) else str(value)[:24],
)
def test_bad_yaml_is_refused_with_its_line(text: str, fault: str, line: int | None) -> None:
    with pytest.raises(YamlInvalid) as refusal:
        list(read_documents(text))
    assert fault in str(refusal.value)
    assert line is None or refusal.value.line == line
