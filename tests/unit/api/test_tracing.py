"""The trace of an attempt: the same for whoever asks, another for each attempt, and a fair share of them is kept."""

from finetune_api.tracing import AttemptTrace

UID = "7c1d4b0e-8a5f-4a39-9a9b-0c9a4bb2a001"


def test_the_identifiers_follow_from_run_and_attempt_and_never_change() -> None:
    """Pinned: operator and trainer of different releases write into the same trace."""
    assert AttemptTrace.of(UID, 0).traceparent == "00-b5f4e9c37aaec5921950a364318e300b-7100b9414a74af8c-01"


def test_each_attempt_of_each_run_has_a_trace_of_its_own() -> None:
    traces = {AttemptTrace.of(uid, attempt) for uid in (UID, "another") for attempt in range(3)}
    assert len({trace.trace_id for trace in traces}) == len({trace.root_id for trace in traces}) == 6


def test_the_share_that_is_kept_is_the_one_asked_for() -> None:
    traces = [AttemptTrace.of(str(number), 0) for number in range(4000)]
    assert all(trace.is_sampled(1) for trace in traces)
    assert not any(trace.is_sampled(0) for trace in traces)
    assert 900 < sum(trace.is_sampled(0.25) for trace in traces) < 1100
    assert all(trace.is_sampled(0.5) for trace in traces if trace.is_sampled(0.25)), "a larger share has all of a smaller one"
