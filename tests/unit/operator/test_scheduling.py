"""What schedulers say of pods that they place all together, as status has it."""

import itertools

import pytest

from finetune_operator.status.scheduling import describe_group, describe_pod
from tests.support.manifests import Manifest
from tests.support.world import build_pod, condition

REQUESTS = {"cpu": "2", "nvidia.com/gpu": "1"}


def _pod(name: str, message: str | None) -> Manifest:
    said = [condition("PodScheduled", "Unschedulable", message, "False")] if message is not None else []
    pod = build_pod(name, node=None, conditions=said)
    pod["spec"]["containers"] = [{"name": "trainer", "resources": {"requests": REQUESTS}}]
    return pod


COSCHEDULING = (
    "0/1 nodes are available: 1 optimistic rejection in PostFilter.",
    "0/2 nodes are available: 2 Insufficient nvidia.com/gpu. no new claims to deallocate, preemption: 0/2 nodes are available: 2 No "
    "preemption victims found for incoming pod. PodGroup team-a/ft-5f0c2f1e gets rejected due to Pod b is unschedulable even after PostFilter",
)


@pytest.mark.parametrize("order", list(itertools.permutations(COSCHEDULING)))
def test_what_is_missing_is_said_whichever_pod_it_was_said_of(order: tuple[str, ...]) -> None:
    pods = [_pod(name, message) for name, message in zip("ab", order, strict=True)]
    assert describe_group(pods, 2, "coscheduling") == (
        "The run's 2 pods get nodes all together, by coscheduling, and there is no room for all of them now: 0/2 nodes are available: "
        "2 Insufficient nvidia.com/gpu. Each asks for cpu 2, nvidia.com/gpu 1."
    )


def test_nothing_is_said_of_a_group_that_no_scheduler_has_looked_at() -> None:
    assert describe_group([_pod("a", None), _pod("b", None)], 2, "volcano") is None
    assert describe_pod(_pod("a", None)) is None
