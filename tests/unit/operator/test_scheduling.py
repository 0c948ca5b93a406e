"""What schedulers say of pods that they place all together, as status has it."""

import itertools

import pytest

from finetune_api.reasons import Reason
from finetune_operator.status.diagnosis import Diagnosis, compute_diagnosis
from finetune_operator.status.scheduling import describe_group, describe_pod
from tests.support.manifests import Manifest
from tests.support.world import build_finetunejob, build_pod, build_spec, build_stored_job, condition, observe

REQUESTS = {"cpu": "2", "nvidia.com/gpu": "1"}


def _pod(name: str, message: str | None) -> Manifest:
    said = [condition("PodScheduled", "Unschedulable", message, "False")] if message is not None else []
    pod = build_pod(name, node=None, conditions=said)
    pod["spec"]["containers"] = [{"name": "trainer", "resources": {"requests": REQUESTS}}]
    return pod


COSCHEDULING = (
    "0/1 nodes are available: 1 optimistic rejection in PostFilter.",
    "0/2 nodes are available: 2 Insufficient nvidia.com/gpu. no new claims to deallocate, preemption: 0/2 nodes are available: 2 No "
    "preemption victims found for incoming pod., PodGroup team-a/ftj-5f0c2f1e gets rejected due to Pod b is unschedulable even after "
    "PostFilter",
)


@pytest.mark.parametrize("order", list(itertools.permutations(COSCHEDULING)))
def test_what_is_missing_is_said_whichever_pod_it_was_said_of(order: tuple[str, ...]) -> None:
    pods = [_pod(name, message) for name, message in zip("ab", order, strict=True)]
    assert describe_group(pods, 2, "coscheduling") == (
        "The run's 2 pods get nodes all together, by coscheduling, and can't now: 0/2 nodes are available: 2 Insufficient nvidia.com/gpu. "
        "Each asks for cpu 2, nvidia.com/gpu 1."
    )


def test_a_group_whose_pod_group_was_deleted_says_how_to_have_it_again() -> None:
    said = describe_group([_pod("a", "0/1 nodes are available: 1 PodGroup not found."), _pod("b", COSCHEDULING[0])], 2, "coscheduling")
    assert "their PodGroup is gone (delete the run's Job, and both are made anew)" in (said or "")


def test_nothing_is_said_of_a_group_that_no_scheduler_has_looked_at() -> None:
    assert describe_group([_pod("a", None), _pod("b", None)], 2, "volcano") is None
    assert describe_pod(_pod("a", None)) is None


def test_a_group_that_volcano_has_not_tried_to_place_says_what_that_means() -> None:
    words = "pod group is not ready, 2 Pending, 2 minAvailable; Pending: 2 Unschedulable"
    said = describe_group([_pod("a", words), _pod("b", words)], 2, "volcano")
    assert said is not None
    assert "it has not let the group in; so much is not free, or its queue may not have it" in said


def test_what_volcano_says_of_one_pod_of_many_is_said_of_the_group() -> None:
    words = (
        "pod group is not ready, 2 Pending, 2 minAvailable; Pending: 1 Schedulable, 1 Unschedulable. Origin reason is run-0-1-x7x4q: "
        "0/2 nodes are unavailable: 2 Insufficient nvidia.com/gpu."
    )
    fits = "Pod team-a/run-0-0-abcde can possibly be assigned to node-1, once minAvailable is satisfied"
    for messages in ((words, fits), (fits, words)):
        said = describe_group([_pod(name, message) for name, message in zip("ab", messages, strict=True)], 2, "volcano") or ""
        assert ": 0/2 nodes are unavailable: 2 Insufficient nvidia.com/gpu. Each asks for" in said


@pytest.mark.parametrize(
    "message",
    [
        "0/1 nodes are available: pre-filter pod a cannot find enough sibling pods, current pods number: 1, minMember of group: 2.",
        "0/1 nodes are available: pre-filter pod a cannot proceed due to gated pods in the same PodGroup.",
    ],
)
def test_a_group_that_is_not_yet_complete_has_not_been_looked_at(message: str) -> None:
    assert describe_group([_pod("a", message)], 2, "coscheduling") is None


GANG: Manifest = {"resources": {"gpus": 1, "nodes": 2}, "scheduling": {"gang": "coscheduling"}}


def _diagnose(*pods: Manifest, warning: str | None = None) -> Diagnosis:
    job = build_stored_job(spec=build_spec(GANG), suspend=False)
    return compute_diagnosis(observe(build_finetunejob(GANG), jobs=[job], pods=pods, warning=warning))


def test_status_speaks_of_the_group_as_a_whole() -> None:
    waiting = _diagnose(_pod("a", None), _pod("b", None))
    assert (waiting.reason, "gangScheduling.coscheduling of the chart" in waiting.message) == (Reason.WAITING_FOR_POD, True)
    assert waiting == _diagnose(), "one write for before and after the pods are made"
    unschedulable = _diagnose(_pod("a", COSCHEDULING[0]), _pod("b", COSCHEDULING[1]))
    assert (unschedulable.reason, "2 Insufficient nvidia.com/gpu" in unschedulable.message) == (Reason.UNSCHEDULABLE, True)


def test_a_group_of_which_a_pod_can_not_be_made_says_why() -> None:
    refused = 'Error creating: pods "b" is forbidden: exceeded quota: gpus, requested: requests.nvidia.com/gpu=1'
    assert _diagnose(_pod("a", None), warning=refused).reason == Reason.QUOTA_EXCEEDED
