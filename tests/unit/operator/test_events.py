"""Kubernetes Events."""

import re
from typing import Any

import pytest

from finetune_api.reasons import Reason
from finetune_api.report import JobReference
from finetune_api.status import Condition, ConditionType, FineTuneJobStatus, Phase
from finetune_operator.status.events import MAX_NOTE, build_event
from tests.support.world import NAMESPACE, NOW, REF, UID, at


def _status(reason: Reason, message: str = "because", phase: Phase = Phase.PENDING) -> FineTuneJobStatus:
    condition = Condition(type=ConditionType.SUCCEEDED, status="Unknown", reason=reason, message=message, last_transition_time=NOW)
    return FineTuneJobStatus(phase=phase, conditions=[condition])


def _event(after: FineTuneJobStatus, before: FineTuneJobStatus | None = None, ref: JobReference = REF) -> dict[str, Any]:
    event = build_event(ref, before or FineTuneJobStatus(), after, NOW)
    assert event is not None
    return event


@pytest.mark.parametrize(
    ("reason", "phase", "kind"),
    [
        (Reason.TRAINING, Phase.RUNNING, "Normal"),
        (Reason.COMPLETED, Phase.SUCCEEDED, "Normal"),
        (Reason.QUEUED, Phase.QUEUED, "Normal"),
        (Reason.SUSPENDED, Phase.SUSPENDED, "Normal"),
        (Reason.UNSCHEDULABLE, Phase.PENDING, "Warning"),
        (Reason.IMAGE_PULL_FAILED, Phase.STARTING, "Warning"),
        (Reason.QUOTA_EXCEEDED, Phase.PENDING, "Warning"),
        (Reason.RETRYING, Phase.STARTING, "Warning"),
        (Reason.DATA_INVALID, Phase.FAILED, "Warning"),
        (Reason.VALIDATION_FAILED, Phase.FAILED, "Warning"),
    ],
)
def test_trouble_is_a_warning(reason: Reason, phase: Phase, kind: str) -> None:
    event = _event(_status(reason, phase=phase))
    assert (event["type"], event["reason"], event["message"]) == (kind, reason, "because")


@pytest.mark.parametrize("reason", [Reason.WAITING_FOR_POD, Reason.STARTING])
def test_a_step_on_the_way_is_none(reason: Reason) -> None:
    assert build_event(REF, FineTuneJobStatus(), _status(reason), NOW) is None


def test_the_same_reason_in_other_words_is_none() -> None:
    before, after = _status(Reason.UNSCHEDULABLE, "0/1 nodes"), _status(Reason.UNSCHEDULABLE, "0/2 nodes")
    assert build_event(REF, before, after, NOW) is None


@pytest.mark.parametrize("reason", [Reason.TRAINING, Reason.STARTING])
def test_an_interruption_that_the_condition_never_said_is_told(reason: Reason) -> None:
    before, after = _status(Reason.TRAINING), _status(reason).model_copy(update={"interruptions": 2})
    event = _event(after, before)
    assert (event["type"], event["reason"]) == ("Normal", Reason.INTERRUPTED)
    assert "2 in all" in event["message"]


@pytest.mark.parametrize("reason", [Reason.INTERRUPTED, Reason.PREEMPTED, Reason.EVICTED])
def test_an_interruption_that_was_said_is_not_told_again(reason: Reason) -> None:
    after = _status(Reason.STARTING).model_copy(update={"interruptions": 1})
    assert build_event(REF, _status(reason), after, NOW) is None


def test_a_status_without_conditions_is_none() -> None:
    assert build_event(REF, FineTuneJobStatus(), FineTuneJobStatus(), NOW) is None


def test_the_same_step_has_the_same_name_and_another_second_has_another() -> None:
    name = _event(_status(Reason.TRAINING))["metadata"]["name"]
    later = build_event(REF, FineTuneJobStatus(), _status(Reason.TRAINING), at(1))
    assert later is not None
    assert name == _event(_status(Reason.TRAINING))["metadata"]["name"] != later["metadata"]["name"]


def test_it_lies_beside_the_run_and_speaks_of_it() -> None:
    event = _event(_status(Reason.TRAINING))
    assert event["metadata"]["namespace"] == NAMESPACE
    assert event["involvedObject"]["uid"] == UID


@pytest.mark.parametrize("name", ["a", "a" * 253])
def test_its_name_is_one_that_kubernetes_takes(name: str) -> None:
    event = _event(_status(Reason.TRAINING), ref=JobReference(namespace="n", name=name, uid=UID))
    assert len(event["metadata"]["name"]) <= 253
    assert re.fullmatch(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?", event["metadata"]["name"])


def test_a_long_message_is_cut() -> None:
    message = _event(_status(Reason.UNSCHEDULABLE, "x" * 2000))["message"]
    assert len(message) == MAX_NOTE
