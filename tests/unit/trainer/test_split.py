"""Holding examples out."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from finetune_trainer.data.split import choose_held_out, rank_rows


def split_examples(rows: list[dict[str, Any]], fraction: float, seed: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    held = choose_held_out(rank_rows(rows, seed), fraction).tolist()
    sides: tuple[list[dict[str, Any]], list[dict[str, Any]]] = ([], [])
    for row, out in zip(rows, held, strict=True):
        sides[out].append(row)
    return sides


ROWS = st.lists(st.builds(lambda text: {"text": text}, st.text(max_size=6)), max_size=40)


@given(ROWS, st.floats(0, 0.5), st.integers(0, 2**32 - 1))
def test_split_keeps_every_row_once_and_in_order(rows: list[dict[str, Any]], fraction: float, seed: int) -> None:
    train, held = split_examples(rows, fraction, seed)
    left = iter(rows)
    assert all(any(row is other for other in left) for row in train)
    left = iter(rows)
    assert all(any(row is other for other in left) for row in held)
    assert len(train) + len(held) == len(rows)


@given(ROWS, st.floats(0.001, 0.5), st.integers(0, 2**32 - 1))
def test_something_is_held_out_but_never_all_and_no_row_is_on_both_sides(rows: list[dict[str, Any]], fraction: float, seed: int) -> None:
    train, held = split_examples(rows, fraction, seed)
    different = {row["text"] for row in rows}
    assert bool(held) == (len(different) >= 2)
    assert bool(train) == bool(rows)
    assert not {row["text"] for row in train} & {row["text"] for row in held}


@given(ROWS, st.floats(0, 0.5), st.integers(0, 2**32 - 1), st.randoms())
def test_order_of_rows_does_not_matter(rows: list[dict[str, Any]], fraction: float, seed: int, random: Any) -> None:
    shuffled = list(rows)
    random.shuffle(shuffled)
    sides = [sorted(row["text"] for row in side) for side in split_examples(rows, fraction, seed)]
    assert sides == [sorted(row["text"] for row in side) for side in split_examples(shuffled, fraction, seed)]


def test_share_is_near_the_fraction_and_seeds_differ() -> None:
    rows = [{"text": str(number)} for number in range(1000)]
    assert len(split_examples(rows, 0.05, 42)[1]) == 50
    assert split_examples(rows, 0.05, 42)[1] != split_examples(rows, 0.05, 43)[1]
    assert split_examples(rows, 0, 42) == (rows, [])
    assert len(split_examples(rows[:2], 0.001, 1)[1]) == 1
    assert split_examples(rows[:1], 0.5, 1) == (rows[:1], [])


def test_a_large_group_of_equal_rows_is_left_in_training() -> None:
    rows = [{"text": "same"}] * 90 + [{"text": str(number)} for number in range(10)]
    for seed in range(20):
        train, held = split_examples(rows, 0.05, seed)
        assert len(held) == 5
        assert len(train) == 95
