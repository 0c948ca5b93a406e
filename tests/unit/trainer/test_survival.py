"""Policies that get a run over what goes wrong."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_api.spec import EarlyStoppingSpec
from finetune_trainer.run.survival import BatchPlan, SpikeGuard, SurvivalState, compute_step_down, observe_evaluation


def plan(per_device: int = 4, accumulation: int = 2, *, checkpointing: bool = True, offload: bool = False) -> BatchPlan:
    return BatchPlan(per_device=per_device, accumulation=accumulation, checkpointing=checkpointing, offload=offload)


@given(st.integers(1, 4096), st.integers(1, 64), st.booleans(), st.booleans())
def test_every_step_down_keeps_the_examples_of_a_step_and_comes_to_an_end(
    per_device: int, accumulation: int, checkpointing: bool, can_offload: bool
) -> None:
    current, steps = plan(per_device, accumulation, checkpointing=checkpointing), 0
    while (down := compute_step_down(current, "sft", can_offload=can_offload)) is not None:
        assert down.plan.per_device * down.plan.accumulation == per_device * accumulation
        assert down.plan != current
        current, steps = down.plan, steps + 1
        assert steps <= 14
    assert current == BatchPlan(per_device=1, accumulation=per_device * accumulation, checkpointing=True, offload=can_offload)


def test_the_batch_goes_first_then_checkpointing_then_offload() -> None:
    current, words = plan(2, 1, checkpointing=False), []
    while (down := compute_step_down(current, "sft", can_offload=True)) is not None:
        current = down.plan
        words.append(down.words)
    assert words == ["batch 2 -> 1, accumulation 1 -> 2", "gradient checkpointing on", "activations held in the node's memory"]


def test_kto_keeps_two_answers_to_compare() -> None:
    assert compute_step_down(plan(2), "kto", can_offload=False) is None
    down = compute_step_down(plan(4), "kto", can_offload=False)
    assert down is not None
    assert down.plan.per_device == 2
    assert compute_step_down(plan(3), "kto", can_offload=False) is None


def observe(guard: SpikeGuard, losses: list[float]) -> list[bool]:
    return [guard.observe(loss) for loss in losses]


def test_three_spikes_in_a_row_are_divergence() -> None:
    guard = SpikeGuard(3.0)
    assert not any(observe(guard, [1.0] * 8))
    assert observe(guard, [3.1, 9.0, 50.0]) == [False, False, True]
    assert guard.losses == [1.0] * 8


def test_a_spike_alone_is_none() -> None:
    guard = SpikeGuard(3.0)
    assert not any(observe(guard, [1.0] * 8 + [10.0, 10.0, 1.0] * 5))


def test_the_first_losses_and_slow_falls_are_no_spikes() -> None:
    assert not any(observe(SpikeGuard(2.0), [100.0, 1.0, 100.0, 1.0, 100.0, 1.0, 100.0]))
    assert not any(observe(SpikeGuard(2.0), [10 / (1 + n / 10) for n in range(100)]))


def test_without_a_factor_nothing_is_a_spike() -> None:
    guard = SpikeGuard(None)
    assert not any(observe(guard, [1.0] * 20 + [1e9] * 5))


@given(st.lists(st.floats(0, 100), max_size=80), st.integers(0, 80))
def test_a_guard_that_was_saved_goes_on_as_one_that_was_not(losses: list[float], cut: int) -> None:
    whole = SpikeGuard(2.0)
    first = SpikeGuard(2.0)
    expected = observe(whole, losses)
    begun = observe(first, losses[:cut])
    second = SpikeGuard(2.0, first.losses, first.spikes)
    assert begun + observe(second, losses[cut:]) == expected


def evaluate(spec: EarlyStoppingSpec | None, losses: list[float]) -> tuple[list[bool], SurvivalState]:
    state = SurvivalState()
    return [observe_evaluation(state, spec, step, loss) for step, loss in enumerate(losses, 1)], state


def test_the_lowest_loss_is_remembered_with_its_step() -> None:
    best, state = evaluate(None, [3.0, 2.0, 2.5, 1.5, 1.6])
    assert best == [True, True, False, True, False]
    assert (state.best_step, state.best_loss, state.stopped_early) == (4, 1.5, False)


@pytest.mark.parametrize(
    ("losses", "stopped"), [([3, 2, 2.1, 2.2], True), ([3, 2, 2.1, 1.8], False), ([3, 2.99, 2.98], True), ([3, 2.99, 2.8, 2.79], False)]
)
def test_a_run_stops_once_the_loss_no_longer_falls(losses: list[float], stopped: bool) -> None:
    _, state = evaluate(EarlyStoppingSpec(patience=2, min_delta=0.1), losses)
    assert state.stopped_early is stopped


def test_the_last_adjustments_are_kept() -> None:
    state = SurvivalState()
    for number in range(20):
        state.note(f"{number} " + "x" * 300)
    assert [words.split()[0] for words in state.adjustments] == [str(number) for number in range(12, 20)]
    assert max(map(len, state.adjustments)) == 256
    assert SurvivalState.model_validate_json(state.model_dump_json()) == state
