"""Conditions: when they change, and when they don't."""

from hypothesis import given
from hypothesis import strategies as st

from finetune_api.reasons import Reason
from finetune_api.status import Condition, ConditionType
from finetune_operator.status.conditions import MAX_MESSAGE, State, build_conditions
from tests.support.world import NOW, at

TRUTHS = st.sampled_from([True, False, None])
REASONS = st.sampled_from(list(Reason))


def _build(state: State, previous: list[Condition], seconds: float = 0, generation: int = 1) -> Condition:
    (condition,) = build_conditions(previous, [state], generation=generation, now=at(seconds))
    return condition


@given(st.lists(st.tuples(TRUTHS, REASONS, st.text(max_size=5)), min_size=1, max_size=8))
def test_the_transition_time_moves_with_the_status_and_with_nothing_else(history: list[tuple[bool | None, Reason, str]]) -> None:
    previous: list[Condition] = []
    for second, (truth, reason, message) in enumerate(history):
        condition = _build((ConditionType.SUCCEEDED, truth, reason, message), previous, second)
        if previous and previous[0].status == condition.status:
            assert condition.last_transition_time == previous[0].last_transition_time
        else:
            assert condition.last_transition_time == at(second)
        assert (condition.reason, condition.message) == (reason, message)
        previous = [condition]


def test_truth_is_written_as_kubernetes_writes_it() -> None:
    states: list[State] = [
        (ConditionType.RUNNING, True, Reason.TRAINING, ""),
        (ConditionType.SUSPENDED, False, Reason.NOT_SUSPENDED, ""),
        (ConditionType.SUCCEEDED, None, Reason.TRAINING, ""),
    ]
    conditions = build_conditions([], states, generation=7, now=NOW)
    assert [(condition.type, condition.status) for condition in conditions] == [
        ("Running", "True"),
        ("Suspended", "False"),
        ("Succeeded", "Unknown"),
    ]
    assert {condition.observed_generation for condition in conditions} == {7}


def test_a_message_too_long_for_the_crd_is_cut() -> None:
    message = _build((ConditionType.RUNNING, True, Reason.TRAINING, "x" * 5000), []).message
    assert len(message) == MAX_MESSAGE
    assert message.endswith("…")
