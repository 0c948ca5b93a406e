"""Restarts and GPU time."""

from dataclasses import dataclass, fields
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_api.status import FineTuneJobStatus
from finetune_operator.status.accounting import Account, compute_account
from tests.support.manifests import Manifest
from tests.support.world import NOW, at, build_ended_pod, build_pod, running, terminated

START_ERROR = {"terminated": {"exitCode": 128, "reason": "StartError", "startedAt": "1970-01-01T00:00:00Z", "finishedAt": None}}


def _account(previous: Account | None, pods: list[Manifest], *, now: float = 0, gpus: int = 1, stopped: bool = False) -> Account:
    """Bring ``previous`` up to date as the operator does: by way of what is written into status."""
    status = FineTuneJobStatus()
    if previous is not None:
        status = FineTuneJobStatus(
            **{field.name: getattr(previous, field.name) for field in fields(Account)},
        )
        status = FineTuneJobStatus.model_validate_json(status.model_dump_json(exclude_none=True))
    ordered = sorted(pods, key=lambda pod: (pod["metadata"]["creationTimestamp"], pod["metadata"]["name"]))
    return compute_account(status, ordered, gpus, now=at(now), stopped=stopped)


def _pod(name: str, start: float, end: float | None = None, *, exit_code: int = 75) -> Manifest:
    if end is None:
        return build_pod(name, phase="Running", state=running(at(start)), created=at(start))
    return build_pod(name, phase="Failed", state=terminated(exit_code, since=at(start), until=at(end)), created=at(start))


def test_nothing_is_counted_before_the_first_pod_runs() -> None:
    assert _account(None, [build_pod()]) == Account(None, 0, 0, None)


def test_the_first_pod_is_no_restart() -> None:
    account = _account(None, [_pod("a", 5)])
    assert (account.restarts, account.gpu_seconds, account.start_time) == (0, 0, at(5))
    assert account.pod is not None
    assert (account.pod.name, account.pod.node_name, account.pod.end_time) == ("a", "node-1", None)


def test_its_time_is_counted_when_it_ends() -> None:
    account = _account(_account(None, [_pod("a", 5)]), [_pod("a", 5, 105)], gpus=2)
    assert (account.restarts, account.gpu_seconds) == (0, 200)


def test_the_moment_between_the_container_s_end_and_the_pod_s_changes_nothing() -> None:
    """The kubelet tells them one after the other; each difference would be a write."""
    runs = _account(None, [_pod("a", 5)])
    ending = build_pod("a", phase="Running", state=terminated(0, since=at(5), until=at(105)), created=at(5))
    assert _account(runs, [ending], now=106) == runs
    assert _account(runs, [_pod("a", 5, 105)], now=107).gpu_seconds == 100


def test_the_start_of_the_run_is_that_of_its_first_pod() -> None:
    assert _account(_account(None, [_pod("a", 0, 10)]), [_pod("a", 0, 10), _pod("b", 20)]).start_time == NOW


def test_a_pod_that_vanished_ended_when_the_next_one_started() -> None:
    account = _account(_account(None, [_pod("a", 0)]), [_pod("b", 30)], now=500)
    assert (account.restarts, account.gpu_seconds) == (1, 30)


def test_a_pod_that_vanished_from_a_run_that_stopped_ended_now() -> None:
    before = _account(None, [_pod("a", 0)])
    assert _account(before, [], now=60).gpu_seconds == 0
    assert _account(before, [], now=60, stopped=True).gpu_seconds == 60


def test_a_pod_that_was_lost_with_its_node_ended_now() -> None:
    """The garbage collector of pods sets the phase, and the container's state says for ever that it runs."""
    lost = build_pod("a", phase="Failed", state=running(NOW))
    account = _account(_account(None, [_pod("a", 0)]), [lost], now=60)
    assert account.gpu_seconds == 60
    assert _account(account, [lost], now=600) == account


@pytest.mark.parametrize("state", [START_ERROR, terminated(137, since=None, until=None)], ids=["1970", "no time"])
def test_a_trainer_that_never_ran_used_nothing(state: Manifest) -> None:
    failed = build_pod("a", phase="Failed", state=state)
    account = _account(None, [failed], now=3)
    assert account.gpu_seconds <= 3
    assert _account(account, [failed, _pod("b", 10)], now=20).restarts == 1


def test_a_pod_without_times_is_not_counted_again_and_again() -> None:
    pods = [build_pod("a", phase="Failed", state=terminated(137, since=None, until=None)), _pod("b", 10)]
    account = _account(None, pods, now=20)
    assert _account(account, pods, now=30) == account
    assert account.restarts == 1


def test_two_pods_of_the_same_second_are_each_counted_once() -> None:
    pods = [_pod("a", 0, 0), _pod("b", 0, 0)]
    account = _account(None, pods)
    assert account.restarts == 1
    assert _account(account, pods) == account


def test_a_node_s_clock_that_is_behind_costs_no_time() -> None:
    pod = build_pod("a", phase="Failed", state=terminated(1, since=at(-30), until=at(70)), created=NOW)
    assert _account(None, [pod]).gpu_seconds == 100


def test_a_clock_that_runs_backwards_takes_nothing_away() -> None:
    assert _account(None, [build_ended_pod(1)]).gpu_seconds == 0
    pod = build_pod("a", phase="Failed", state=terminated(1, since=at(50), until=at(0)))
    assert _account(None, [pod]).gpu_seconds == 0


@dataclass(frozen=True)
class Life:
    """A pod from its start to its end, and what is seen of it meanwhile."""

    name: str
    start: int
    end: int


@st.composite
def _lives(draw: Any) -> list[Life]:
    """Pods of one run, one after the other, as a Job with podReplacementPolicy Failed has them."""
    lives, time = [], 0
    for index in range(draw(st.integers(1, 6))):
        start = time + draw(st.integers(1, 30))
        time = start + draw(st.integers(1, 600))
        name = draw(st.sampled_from("abcxyz")) + str(index)  # the Job controller's names are random: they say nothing of the order
        lives.append(Life(name, start, time))
    return lives


def _view(lives: list[Life], now: int) -> list[Manifest]:
    return [_pod(life.name, life.start, life.end if life.end <= now else None) for life in lives if life.start <= now]


@given(lives=_lives(), moments=st.lists(st.integers(0, 4000), max_size=12), repeat=st.integers(1, 3))
def test_whatever_was_seen_of_it_each_pod_is_counted_once(lives: list[Life], moments: list[int], repeat: int) -> None:
    """Replay any subset of observations, with repeats; the last one sees the end."""
    account = None
    for moment in [*sorted(moments), 10_000]:
        for _ in range(repeat):
            account = _account(account, _view(lives, moment), now=moment)
    assert account is not None
    assert account.restarts == len(lives) - 1
    assert account.gpu_seconds == sum(life.end - life.start for life in lives)
    assert account.start_time == at(lives[0].start)


@given(_lives())
def test_pods_that_are_deleted_after_their_end_change_nothing(lives: list[Life]) -> None:
    """Each pod is seen once after its end, and is then gone."""
    account = None
    for index in range(len(lives)):
        account = _account(account, _view(lives[index : index + 1], 10_000), now=lives[index].end)
    assert account is not None
    assert (account.restarts, account.gpu_seconds) == (len(lives) - 1, sum(life.end - life.start for life in lives))


@given(lives=_lives(), moment=st.integers(0, 4000))
def test_looking_again_changes_nothing(lives: list[Life], moment: int) -> None:
    account = _account(None, _view(lives, moment), now=moment)
    assert _account(account, _view(lives, moment), now=moment + 100) == account
