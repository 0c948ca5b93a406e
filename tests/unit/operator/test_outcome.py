"""How pods and runs end."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_api.exit_codes import OUTCOMES, ExitCode
from finetune_api.reasons import Reason
from finetune_operator.desired.job import build_failure_rules
from finetune_operator.objects import has_started, is_over
from finetune_operator.status.outcome import Verdict, compute_pod_outcome, compute_verdict, lacks_ends
from tests.support.manifests import Manifest
from tests.support.world import (
    COMPLETE,
    FAILED,
    build_artifact,
    build_ended_pod,
    build_finetunejob,
    build_pod,
    build_stored_job,
    build_summary,
    condition,
    observe,
    running,
)

DISRUPTED = condition("DisruptionTarget", "EvictionByEvictionAPI", "Eviction API: evicting")
BACKOFF = condition("Failed", "BackoffLimitExceeded", "Job has reached the specified backoff limit")
DEADLINE = condition("Failed", "DeadlineExceeded", "Job was active longer than specified deadline")


def _verdict(*pods: Manifest, end: Manifest = FAILED, **job: Any) -> Verdict:
    verdict = compute_verdict(observe(jobs=[build_stored_job(conditions=[end], **job)], pods=pods))
    assert verdict is not None
    return verdict


@pytest.mark.parametrize("code", ExitCode, ids=lambda code: code.name)
def test_each_exit_code_has_its_reason_and_retry(code: ExitCode) -> None:
    outcome = compute_pod_outcome(build_ended_pod(code))
    assert outcome is not None
    assert (outcome.reason, outcome.retry) == (OUTCOMES[code].reason, OUTCOMES[code].retry)


@pytest.mark.parametrize("code", [code for code in ExitCode if code not in (0, 1)], ids=lambda code: code.name)
def test_what_to_do_about_it_follows_the_trainer_s_own_words(code: ExitCode) -> None:
    outcome = compute_pod_outcome(build_ended_pod(code, build_summary("failed", OUTCOMES[code].reason, message="The trainer's words.")))
    assert outcome is not None
    assert outcome.message == f"The trainer's words. {OUTCOMES[code].advice}".strip()


def test_words_without_a_full_stop_get_one_before_the_advice() -> None:
    outcome = compute_pod_outcome(build_ended_pod(ExitCode.DATA_INVALID, build_summary("failed", Reason.DATA_INVALID, message="no rows")))
    assert outcome is not None
    assert outcome.message.startswith("no rows. Mend")


def test_a_pod_that_runs_has_no_outcome() -> None:
    assert compute_pod_outcome(build_pod(phase="Running", state=running())) is None


def test_a_pod_that_took_too_much_memory() -> None:
    outcome = compute_pod_outcome(build_ended_pod(137, reason="OOMKilled"))
    assert outcome is not None
    assert (outcome.reason, outcome.retry) == (Reason.OUT_OF_MEMORY, "counted")
    assert "more memory than 16Gi" in outcome.message


def test_an_evicted_pod_says_what_the_kubelet_said() -> None:
    pod = build_pod(phase="Failed", reason="Evicted", message="The node was low on resource: ephemeral-storage.")
    outcome = compute_pod_outcome(pod)
    assert outcome is not None
    assert (outcome.reason, outcome.retry) == (Reason.TRAINER_CRASHED, "counted")
    assert "low on resource: ephemeral-storage" in outcome.message


@pytest.mark.parametrize(
    ("exit_code", "name"), [(137, "SIGKILL"), (143, "SIGTERM"), (139, "SIGSEGV"), (134, "SIGABRT"), (255, "signal 127")]
)
def test_a_signal_is_named(exit_code: int, name: str) -> None:
    outcome = compute_pod_outcome(build_ended_pod(exit_code))
    assert outcome is not None
    assert f"was killed by {name}" in outcome.message


def test_the_end_of_the_log_is_quoted_where_there_is_no_summary() -> None:
    outcome = compute_pod_outcome(build_ended_pod(1, "noise\n" * 1000 + "RuntimeError: boom"))
    assert outcome is not None
    assert outcome.message.endswith("RuntimeError: boom")
    assert len(outcome.message) < 800


def test_a_crash_with_a_summary_is_told_in_its_words() -> None:
    outcome = compute_pod_outcome(build_ended_pod(1, build_summary("failed", Reason.TRAINER_CRASHED, message="KeyError: 'x'.")))
    assert outcome is not None
    assert outcome.message == "The trainer crashed: KeyError: 'x'. See the log of pod support-bot-pod."


def _retry_of_job(exit_code: int, *, disrupted: bool) -> str:
    """Return how the Job controller takes a failed pod, by the Job's own policy."""
    for rule in build_failure_rules():
        if exit_code in rule.get("onExitCodes", {}).get("values", ()) or (disrupted and "onPodConditions" in rule):
            return {"FailJob": "never", "Ignore": "free"}[rule["action"]]
    return "counted"


@given(exit_code=st.integers(1, 255), disrupted=st.booleans(), reason=st.sampled_from(["Error", "OOMKilled"]))
def test_the_outcome_is_the_one_that_the_job_s_policy_gives(exit_code: int, disrupted: bool, reason: str) -> None:
    outcome = compute_pod_outcome(build_ended_pod(exit_code, reason=reason, conditions=[DISRUPTED] if disrupted else []))
    assert outcome is not None
    assert outcome.retry == _retry_of_job(exit_code, disrupted=disrupted)


def test_a_run_that_is_under_way_has_no_verdict() -> None:
    assert compute_verdict(observe()) is None
    assert compute_verdict(observe(jobs=[build_stored_job()], pods=[build_ended_pod(1)])) is None


def test_complete_with_an_artifact_is_success() -> None:
    verdict = _verdict(build_ended_pod(0, build_summary()), end=COMPLETE)
    assert (verdict.succeeded, verdict.reason) == (True, Reason.COMPLETED)
    assert verdict.message == f"The adapter is published at {build_artifact().uri} ({build_artifact().digest})."


def test_a_drain_while_the_trainer_was_finishing_takes_nothing_from_its_success() -> None:
    assert _verdict(build_ended_pod(0, build_summary(), conditions=[DISRUPTED]), end=COMPLETE).succeeded


@pytest.mark.parametrize(
    "last_words",
    ["", "some log", build_summary(artifacts=[]), build_summary("failed", Reason.TRAINER_CRASHED), build_summary()[:-9]],
    ids=["nothing", "log", "no artifact", "failed", "cut"],
)
def test_complete_without_an_artifact_is_no_success(last_words: str) -> None:
    verdict = _verdict(build_ended_pod(0, last_words), end=COMPLETE)
    assert (verdict.succeeded, verdict.reason) == (False, Reason.RESULT_MISSING)


def test_complete_without_a_pod_is_not_decided() -> None:
    assert compute_verdict(observe(jobs=[build_stored_job(conditions=[COMPLETE])])) is None


def test_a_permanent_fault_is_told_with_its_advice() -> None:
    verdict = _verdict(build_ended_pod(65, build_summary("failed", Reason.DATA_INVALID, message="Row 7 has no text.")))
    assert verdict.reason is Reason.DATA_INVALID
    assert verdict.message == "Row 7 has no text. Mend the dataset and create the FineTuneJob anew."


def test_a_permanent_fault_of_a_disrupted_pod_is_still_the_reason() -> None:
    assert _verdict(build_ended_pod(65, conditions=[DISRUPTED])).reason is Reason.DATA_INVALID


def test_giving_up_says_after_how_many_retries_of_all_attempts() -> None:
    """This Job had one left of the three: two were used before it."""
    verdict = _verdict(build_ended_pod(1, name="a"), build_ended_pod(1, "boom", name="b"), end=BACKOFF, backoffLimit=1)
    assert verdict.reason is Reason.TRAINER_CRASHED
    assert verdict.message.endswith("The end of its log: boom Given up after 3 retries (spec.backoffLimit).")


def test_interruptions_are_not_the_reason_of_a_failure() -> None:
    verdict = _verdict(build_ended_pod(74, name="a"), build_ended_pod(75, name="b"), end=BACKOFF)
    assert verdict.reason is Reason.STORAGE_FAILED


def test_a_failure_without_pods_says_what_the_job_says() -> None:
    verdict = _verdict(end=BACKOFF)
    assert (verdict.reason, verdict.message) == (Reason.BACKOFF_LIMIT_EXCEEDED, "Job has reached the specified backoff limit")


def test_a_deadline_tells_of_the_last_checkpoint() -> None:
    pod = build_ended_pod(75, build_summary("interrupted", Reason.INTERRUPTED, checkpoint_step=40))
    verdict = _verdict(pod, end=DEADLINE, activeDeadlineSeconds=60)
    assert verdict.reason is Reason.DEADLINE_EXCEEDED
    assert verdict.message == "The run took longer than spec.activeDeadlineSeconds (60 s). Its last checkpoint is of step 40."


PODS = st.builds(
    lambda index, ended, exit_code, words, disrupted: (
        build_ended_pod(exit_code, words, name=f"pod-{index}", conditions=[DISRUPTED] if disrupted else [])
        if ended
        else build_pod(f"pod-{index}", phase="Running", state=running())
    ),
    st.integers(0, 5),
    st.booleans(),
    st.sampled_from([0, 1, 64, 75, 137]),
    st.sampled_from(
        [
            "",
            "log",
            build_summary(artifacts=[]),
            build_summary("interrupted", Reason.INTERRUPTED),
            build_summary("failed", Reason.DATA_INVALID),
        ]
    ),
    st.booleans(),
)


@given(
    end=st.sampled_from([None, COMPLETE, FAILED, BACKOFF, DEADLINE]),
    pods=st.lists(PODS, max_size=4, unique_by=lambda p: p["metadata"]["name"]),
)
def test_without_an_artifact_there_is_never_success(end: Manifest | None, pods: list[Manifest]) -> None:
    verdict = compute_verdict(observe(jobs=[build_stored_job(conditions=[end] if end else [])], pods=pods))
    assert verdict is None or not verdict.succeeded


@given(end=st.sampled_from([FAILED, BACKOFF, DEADLINE]), words=st.sampled_from([build_summary(), ""]))
def test_a_failed_job_is_never_a_success(end: Manifest, words: str) -> None:
    assert not _verdict(build_ended_pod(1, words), end=end).succeeded


@pytest.mark.parametrize(
    ("end", "counted", "pods", "expected"),
    [
        (None, {}, [], False),
        (COMPLETE, {"succeeded": 1}, [], True),
        (COMPLETE, {"succeeded": 1}, [build_pod(phase="Running", state=running())], True),
        (COMPLETE, {"succeeded": 1}, [build_ended_pod(0)], False),
        (COMPLETE, {"succeeded": 1}, [build_ended_pod(75)], True),  # the one that a suspension stopped is not the one that completed
        (BACKOFF, {"failed": 2}, [build_ended_pod(1)], True),
        (BACKOFF, {"failed": 1}, [build_ended_pod(1)], False),
    ],
)
def test_a_job_that_ended_before_its_pods_were_seen_to(
    end: Manifest | None, counted: Manifest, pods: list[Manifest], expected: bool
) -> None:
    job = build_stored_job(conditions=[end] if end else [])
    job["status"] |= counted
    assert lacks_ends(observe(jobs=[job], pods=pods)) is expected
    assert not lacks_ends(observe(build_finetunejob(status={"phase": "Failed"}), jobs=[job], pods=pods))


@given(PODS)
def test_what_is_over_has_started_unless_it_never_ran(pod: Manifest) -> None:
    assert has_started(pod)
    assert is_over(pod) == (compute_pod_outcome(pod) is not None)
