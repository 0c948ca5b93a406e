"""The status that an observation calls for."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_api.base import format_time
from finetune_api.progress import Metrics
from finetune_api.reasons import Reason
from finetune_api.status import ConditionType, FineTuneJobStatus, Phase
from finetune_operator.observation import Observation, Refusal
from finetune_operator.status.compute import compute_status
from tests.support.manifests import Manifest
from tests.support.world import (
    COMPLETE,
    FAILED,
    NOW,
    at,
    build_artifact,
    build_ended_pod,
    build_finetunejob,
    build_pod,
    build_stored_job,
    build_summary,
    condition,
    observe,
    running,
    terminated,
    waiting,
)

JOB = build_stored_job(suspend=False)
PROGRESS = {"percentage": 40, "step": 4, "totalSteps": 10, "epoch": 0.4, "lastUpdatedTime": format_time(NOW)}


def _status(observation: Observation, seconds: float = 0) -> FineTuneJobStatus:
    return compute_status(observation, at(seconds))


def _stored(status: FineTuneJobStatus) -> dict[str, Any]:
    return status.model_dump(mode="json", exclude_none=True)


def _truths(status: FineTuneJobStatus) -> dict[str, str]:
    return {condition.type: condition.status for condition in status.conditions}


def _reason(status: FineTuneJobStatus, kind: ConditionType = ConditionType.SUCCEEDED) -> str:
    return next(condition.reason for condition in status.conditions if condition.type == kind)


def test_a_new_run() -> None:
    status = _status(observe())
    assert status.phase is Phase.PENDING
    assert status.observed_generation == 1
    assert status.gpus == 1
    assert _truths(status) == {
        "Accepted": "True",
        "Admitted": "Unknown",
        "Running": "False",
        "Suspended": "False",
        "Succeeded": "Unknown",
        "Reconciling": "True",
        "Stalled": "False",
    }


def test_a_run_that_trains() -> None:
    status = _status(observe(jobs=[JOB], pods=[build_pod(phase="Running", state=running())]))
    truths = _truths(status)
    assert status.phase is Phase.RUNNING
    assert (truths["Admitted"], truths["Running"], truths["Succeeded"], truths["Reconciling"]) == ("True", "True", "Unknown", "True")
    assert (status.attempt, status.job_name) == (0, JOB["metadata"]["name"])


def test_a_run_that_needs_help_is_stalled_and_says_why() -> None:
    pod = build_pod(state=waiting("CreateContainerConfigError", 'secret "s3" not found'))
    status = _status(observe(jobs=[JOB], pods=[pod]))
    assert (_truths(status)["Stalled"], _truths(status)["Reconciling"]) == ("True", "False")
    assert _reason(status, ConditionType.STALLED) == Reason.SECRET_NOT_FOUND


def test_a_suspended_run_is_neither_under_way_nor_stalled() -> None:
    truths = _truths(_status(observe(build_finetunejob({"suspend": True}))))
    assert (truths["Suspended"], truths["Reconciling"], truths["Stalled"], truths["Admitted"]) == ("True", "False", "False", "False")


def test_an_invalid_specification_ends_the_run_and_names_every_field() -> None:
    status = _status(observe(build_finetunejob({"training": {"epochs": -1, "maxLength": 1}})))
    (accepted,) = [condition for condition in status.conditions if condition.type == ConditionType.ACCEPTED]
    assert status.phase is Phase.FAILED
    assert (accepted.status, accepted.reason) == ("False", Reason.VALIDATION_FAILED)
    assert "spec.training.epochs" in accepted.message
    assert "spec.training.maxLength" in accepted.message


def test_a_run_with_fields_of_a_newer_release_waits_for_the_upgrade() -> None:
    """The API server keeps no field that its schema lacks: an unknown one came with a newer resource definition."""
    status = _status(observe(build_finetunejob({"training": {"fromTheFuture": 1}})))
    assert (status.phase, status.completion_time) == (Phase.PENDING, None)
    assert (_truths(status)["Accepted"], _truths(status)["Succeeded"], _truths(status)["Stalled"]) == ("False", "Unknown", "True")
    assert _reason(status, ConditionType.STALLED) == Reason.UNKNOWN_FIELDS
    upgraded = _status(observe(build_finetunejob({}, status.model_dump(mode="json", by_alias=True, exclude_none=True))))
    assert (_truths(upgraded)["Accepted"], _truths(upgraded)["Stalled"]) == ("True", "False")


def test_unknown_fields_do_not_excuse_other_faults() -> None:
    status = _status(observe(build_finetunejob({"training": {"fromTheFuture": 1, "epochs": -1}})))
    assert status.phase is Phase.FAILED


def test_a_run_that_an_older_operator_started_goes_on_to_its_end() -> None:
    old = {"training": {"epochs": -1}}
    status = _status(observe(build_finetunejob(old, {"gpus": 1}), jobs=[JOB], pods=[build_pod(phase="Running", state=running())]))
    assert status.phase is Phase.RUNNING
    assert status.gpus == 1
    assert (_truths(status)["Accepted"], _truths(status)["Running"]) == ("False", "True")
    ended = observe(build_finetunejob(old), jobs=[build_stored_job(conditions=[COMPLETE])], pods=[build_ended_pod(0, build_summary())])
    assert _status(ended).phase is Phase.SUCCEEDED


def test_success() -> None:
    ended = build_stored_job(conditions=[COMPLETE])
    status = _status(observe(jobs=[ended], pods=[build_ended_pod(0, build_summary())]), 60)
    assert status.phase is Phase.SUCCEEDED
    assert status.artifacts == [build_artifact()]
    assert status.completion_time == at(60)
    assert status.progress is not None
    assert status.progress.percentage == 100
    truths = _truths(status)
    assert (truths["Succeeded"], truths["Running"], truths["Reconciling"], truths["Stalled"]) == ("True", "False", "False", "False")


def test_failure() -> None:
    ended = build_stored_job(conditions=[FAILED])
    status = _status(observe(jobs=[ended], pods=[build_ended_pod(65)]))
    assert status.phase is Phase.FAILED
    assert (_truths(status)["Succeeded"], _truths(status)["Stalled"]) == ("False", "True")
    assert _reason(status) == Reason.DATA_INVALID
    assert status.artifacts == []


def test_the_summary_has_the_last_word_on_what_it_speaks_of_and_on_nothing_else() -> None:
    stored = {"metrics": {"loss": 2.0, "evalLoss": 1.5, "history": [{"step": 1, "loss": 3.0}]}, "progress": PROGRESS}
    words = build_summary("failed", Reason.LOSS_DIVERGED, metrics=Metrics(loss=9.0), progress=None)
    ended = build_stored_job(conditions=[FAILED])
    status = _status(observe(build_finetunejob(status=stored), jobs=[ended], pods=[build_ended_pod(72, words)]))
    assert status.metrics is not None
    assert (status.metrics.loss, status.metrics.eval_loss, len(status.metrics.history)) == (9.0, 1.5, 1)
    assert status.progress is not None
    assert status.progress.step == 4


def test_reports_survive_every_write_of_the_reconciler() -> None:
    status = _status(observe(build_finetunejob(status={"progress": PROGRESS}), jobs=[JOB], pods=[build_pod(state=running())]))
    assert _stored(status)["progress"] == PROGRESS


@pytest.mark.parametrize(
    ("pods", "limit"),
    [
        ([build_ended_pod(0, build_summary())], 3),
        ([build_ended_pod(65)], 3),
        ([build_ended_pod(1, name="a"), build_ended_pod(74, name="b")], 1),
    ],
    ids=["completed", "failed for good", "crashed too often"],
)
def test_between_the_last_pod_s_end_and_the_job_s_nothing_is_written(pods: list[Manifest], limit: int) -> None:
    """The Job's controller takes a second; saying Pending or Retrying meanwhile would be false, and a write more."""
    observation = observe(
        build_finetunejob(status={"phase": "Running"}), jobs=[build_stored_job(suspend=False, backoffLimit=limit)], pods=pods
    )
    assert _status(observation) is observation.status


def test_a_crash_within_the_budget_is_told_at_once() -> None:
    pods = [build_ended_pod(1, name="a"), build_ended_pod(75, name="b")]
    observation = observe(build_finetunejob(status={"phase": "Running"}), jobs=[build_stored_job(suspend=False, backoffLimit=1)], pods=pods)
    assert _reason(_status(observation)) == Reason.INTERRUPTED


def test_a_lost_result_is_no_end() -> None:
    assert _status(observe(jobs=[build_stored_job(conditions=[COMPLETE])])).phase is Phase.PENDING


def test_an_unreadable_part_of_a_status_counts_as_absent() -> None:
    observation = observe(build_finetunejob(status={"phase": "Running", "gpus": "many", "restarts": 3}))
    assert (observation.status.gpus, observation.status.restarts) == (None, 3)


def test_a_run_that_is_being_deleted_is_not_written_to() -> None:
    observation = observe(build_finetunejob(deletionTimestamp=format_time(NOW)))
    assert _status(observation) is observation.status


PODS = st.lists(
    st.sampled_from(
        [
            build_pod("a", node=None),
            build_pod("b", state=waiting("ErrImagePull", "no")),
            build_pod("c", phase="Running", state=running()),
            build_ended_pod(0, build_summary(), name="d"),
            build_ended_pod(0, name="e"),
            build_ended_pod(64, name="f"),
            build_ended_pod(1, "log", name="g"),
            build_pod("h", phase="Failed", state=terminated(75), conditions=[condition("DisruptionTarget")]),
            build_pod("i", phase="Failed"),
        ]
    ),
    max_size=3,
    unique_by=lambda pod: pod["metadata"]["name"],
)
JOBS = st.sampled_from(
    [None, JOB, build_stored_job(suspend=True), build_stored_job(conditions=[COMPLETE]), build_stored_job(conditions=[FAILED])]
)
SPECS = st.sampled_from([{}, {"suspend": True}, {"scheduling": {"queueName": "q"}}, {"training": {"epochs": -1}}])
REFUSALS = st.sampled_from([None, Refusal(Reason.NAME_TAKEN, "taken")])


def _observation(spec: Manifest, job: Manifest | None, pods: list[Manifest], refusal: Refusal | None, status: Any = None) -> Observation:
    return observe(build_finetunejob(spec, status), jobs=[job] if job else [], pods=pods, refusal=refusal)


@given(spec=SPECS, job=JOBS, pods=PODS, refusal=REFUSALS)
def test_looking_again_changes_nothing(spec: Manifest, job: Manifest | None, pods: list[Manifest], refusal: Refusal | None) -> None:
    """What was written and read back calls for no other write, however late: an idle run costs nothing."""
    first = _stored(_status(_observation(spec, job, pods, refusal)))
    again = _stored(_status(_observation(spec, job, pods, refusal, first), 3600))
    if any("finishedAt" not in str(pod) and pod["status"]["phase"] == "Failed" for pod in pods):
        return  # ended now, for want of a better time: counted once, which test_accounting shows
    assert again == first


@given(spec=SPECS, job=JOBS, pods=PODS, refusal=REFUSALS, phase=st.sampled_from(["Succeeded", "Failed"]))
def test_a_terminal_status_never_changes(
    spec: Manifest, job: Manifest | None, pods: list[Manifest], refusal: Refusal | None, phase: str
) -> None:
    observation = _observation(spec, job, pods, refusal, {"phase": phase, "restarts": 2})
    assert _status(observation, 60) is observation.status


@given(spec=SPECS, job=JOBS, pods=PODS, refusal=REFUSALS)
def test_success_has_an_artifact(spec: Manifest, job: Manifest | None, pods: list[Manifest], refusal: Refusal | None) -> None:
    status = _status(_observation(spec, job, pods, refusal))
    assert (status.phase is Phase.SUCCEEDED) == (_truths(status).get("Succeeded") == "True")
    assert status.phase is not Phase.SUCCEEDED or status.artifacts


@given(spec=SPECS, job=JOBS, pods=PODS, refusal=REFUSALS)
def test_conditions_agree_with_each_other(spec: Manifest, job: Manifest | None, pods: list[Manifest], refusal: Refusal | None) -> None:
    """As kstatus reads them: never reconciling and stalled at once; ended is neither running nor reconciling."""
    status = _status(_observation(spec, job, pods, refusal))
    if status.phase is None:
        return  # its end is certain and not there yet
    truths = _truths(status)
    assert not (truths["Reconciling"] == "True" and truths["Stalled"] == "True")
    assert (truths["Succeeded"] == "Unknown") == (not status.phase.is_terminal)
    if status.phase.is_terminal:
        assert truths["Reconciling"] == "False"
        assert truths.get("Running", "False") == "False"
        assert status.completion_time is not None


@pytest.mark.parametrize("phase", Phase)
def test_every_phase_can_be_read_back(phase: Phase) -> None:
    assert FineTuneJobStatus.model_validate({"phase": phase.value}).phase is phase
