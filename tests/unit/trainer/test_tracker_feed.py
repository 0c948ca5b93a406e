"""A tracker that is slow, down or wrong costs training nothing."""

import threading
from collections.abc import Mapping, Sequence

import pytest

from finetune_trainer.tracking.feed import TrackerFeed
from finetune_trainer.tracking.tracker import Outcome, Point, Tracker


class Recorder(Tracker):
    kind = "recorder"

    def __init__(self, faults: int = 0, error: BaseException | None = None, known: int = 0) -> None:
        self.known = known
        self.faults = faults
        self.error = error or OSError("down")
        self.started = 0
        self.points: list[Point] = []
        self.finished: list[tuple[Outcome, Mapping[str, str]]] = []

    def start(self) -> int:
        self.started += 1
        if self.faults:
            self.faults -= 1
            raise self.error
        return self.known

    def log(self, points: Sequence[Point]) -> None:
        self.points += points

    def finish(self, outcome: Outcome, notes: Mapping[str, str]) -> None:
        self.finished.append((outcome, notes))


def feed(tracker: Tracker) -> TrackerFeed:
    return TrackerFeed(tracker, interval=0.001, first_delay=0.001)


def test_every_figure_arrives_in_order_and_the_end_last() -> None:
    tracker = Recorder()
    feeding = feed(tracker)
    for step in range(1000):
        feeding.log(step, {"loss": step / 2})
    assert feeding.close("completed", {"adapter": "uri"}, 30)
    assert [(point.step, point.values) for point in tracker.points] == [(step, {"loss": step / 2}) for step in range(1000)]
    assert tracker.finished == [("completed", {"adapter": "uri"})]
    assert tracker.started == 1


def test_what_an_earlier_pod_has_sent_is_not_sent_again() -> None:
    tracker = Recorder(known=3)
    feeding = feed(tracker)
    for step in range(1, 6):
        feeding.log(step, {"loss": 1.0})
    assert feeding.close("completed", {}, 30)
    assert [point.step for point in tracker.points][-3:] == [3, 4, 5]


def test_a_run_without_figures_is_told_of_its_end() -> None:
    tracker = Recorder()
    assert feed(tracker).close("failed", {}, 30)
    assert tracker.finished == [("failed", {})]


@pytest.mark.parametrize("error", [OSError("down"), ValueError("odd"), SystemExit(1), ImportError("none")])
def test_figures_wait_until_the_tracker_is_back(error: BaseException) -> None:
    tracker = Recorder(faults=3, error=error)
    feeding = feed(tracker)
    feeding.log(1, {"loss": 1.0})
    back = threading.Event()
    for _ in range(3000):
        if tracker.points:
            break
        back.wait(0.01)
    assert [point.step for point in tracker.points] == [1]
    assert feeding.failures == 3
    assert feeding.close("completed", {}, 30)


def test_the_end_does_not_wait_for_a_tracker_that_stays_down() -> None:
    tracker = Recorder(faults=10**9)
    feeding = feed(tracker)
    feeding.log(1, {"loss": 1.0})
    assert not feeding.close("completed", {}, 30)
    assert tracker.points == []


def test_the_end_does_not_wait_for_a_tracker_that_hangs() -> None:
    hung = threading.Event()

    class Hanging(Recorder):
        def start(self) -> int:
            hung.wait(60)
            return 0

    feeding = feed(Hanging())
    feeding.log(1, {"loss": 1.0})
    assert not feeding.close("interrupted", {}, 0.05)
    hung.set()


def test_numbers_that_are_not_finite_are_left_out() -> None:
    tracker = Recorder()
    feeding = feed(tracker)
    feeding.log(1, {"loss": float("nan"), "grad_norm": float("inf")})
    feeding.log(2, {"loss": 1.0, "grad_norm": float("inf")})
    assert feeding.close("completed", {}, 30)
    assert [(point.step, point.values) for point in tracker.points] == [(2, {"loss": 1.0})]
