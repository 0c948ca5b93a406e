"""Token buckets."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_operator.reports import limits
from finetune_operator.reports.limits import RateLimit


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_burst_and_then_the_rate() -> None:
    clock = Clock()
    limit = RateLimit(2, 3, clock)
    assert [limit.allows("a") for _ in range(4)] == [True, True, True, False]
    clock.now = 0.5
    assert [limit.allows("a") for _ in range(2)] == [True, False]


def test_a_quiet_time_is_worth_no_more_than_the_burst() -> None:
    clock = Clock()
    limit = RateLimit(1, 2, clock)
    clock.now = 1000.0
    assert [limit.allows("a") for _ in range(3)] == [True, True, False]


def test_one_key_takes_nothing_from_another() -> None:
    limit = RateLimit(1, 1, Clock())
    assert limit.allows("a")
    assert not limit.allows("a")
    assert limit.allows("b")


def test_the_memory_of_keys_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "KEYS_KEPT", 2)
    limit = RateLimit(1, 1, Clock())
    for key in "abc":
        limit.allows(key)
    assert not limit.allows("c")
    assert not limit.allows("b")
    assert limit.allows("a")


@given(st.lists(st.floats(0, 10), max_size=60).map(sorted))
def test_in_no_time_more_than_the_burst_and_the_rate(moments: list[float]) -> None:
    clock = Clock()
    limit = RateLimit(1, 2, clock)
    allowed = []
    for moment in moments:
        clock.now = moment
        if limit.allows():
            allowed.append(moment)
    for first, start in enumerate(allowed):
        for last, end in enumerate(allowed[first:], start=first):
            assert last - first + 1 <= 2 + (end - start) + 1e-6
