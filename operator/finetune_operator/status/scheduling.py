"""What schedulers say of pods that they have given no node, in words that a person can act on."""

import re
from collections.abc import Sequence
from typing import Final

from finetune_operator.objects import Object, condition_of

_HINTS: Final = re.compile(r" ?(?:no new claims to deallocate\b|preemption: |PodGroup \S+ gets rejected\b).*$", re.DOTALL)
"""Other schedulers' inner workings at the end of a message: DRA's, preemption's, coscheduling's."""
_NODES: Final = re.compile(r"\d+/\d+ nodes are (?:un)?available: .*", re.DOTALL)
_INCOMPLETE: Final = re.compile(r"cannot find enough sibling pods|due to gated pods")
"""What coscheduling says until all pods of a group exist. It names the pod, and counts: another message at each look."""
_NOT_LET_IN: Final = re.compile(r"pod group is not ready(?!.*Origin reason)", re.DOTALL)
"""What Volcano says of a group that it has not even tried to place: it counts the pods, and says why in an Event of the PodGroup alone."""
_BY_THE_GROUP: Final = re.compile(
    r"rejection in (?:PostFilter|Unreserve)|failed recently|due to timeout after waiting|minAvailable is satisfied"
)
"""What is said of a pod that would fit, or wasn't looked at, only because another one of its group has no room."""


def describe_pod(pod: Object) -> str | None:
    """Return why ``pod`` has no node; None before a scheduler has said anything of it."""
    words = _read(pod)
    return None if words is None else f"No node can take the pod now: {words}. It asks for {_describe_request(pod)}."


def describe_group(pods: Sequence[Object], size: int, gang: str) -> str | None:
    """Return why those of a run's ``size`` pods that ``gang`` has not placed have no nodes; None before it has said anything of them.

    It says different things of each pod, and others each time that it looks. What is returned stays the same as long as what is
    missing does, since each change is a write.
    """
    said = [(words, pod) for pod in pods if (words := _read(pod)) is not None and not _INCOMPLETE.search(words)]
    if not said:
        return None
    messages = sorted({_shorten(words) for words, _ in said})
    # A message of a pod that stands back for the others has nothing that anybody could act on.
    reasons = [words for words in messages if not _BY_THE_GROUP.search(words)] or messages
    return (
        f"The run's {size} pods get nodes all together, by {gang}, and can't now: {reasons[0]}. "
        f"Each asks for {_describe_request(said[0][1])}."
    )


def _shorten(words: str) -> str:
    if _NOT_LET_IN.search(words):
        return "it has not let the group in; so much is not free, or its queue may not have it (Events of the Job's PodGroup say which)"
    if "PodGroup not found" in words:
        return "their PodGroup is gone (delete the run's Job, and both are made anew)"
    found = _NODES.search(words)
    return found[0] if found else words


def _read(pod: Object) -> str | None:
    scheduled = condition_of(pod, "PodScheduled")
    if scheduled is None or scheduled["status"] != "False":
        return None
    words: str = _HINTS.sub("", scheduled.get("message", "")).strip() or scheduled.get("reason", "")
    return words.rstrip("., ")


def _describe_request(pod: Object) -> str:
    requests = pod["spec"]["containers"][0].get("resources", {}).get("requests", {})
    return ", ".join(f"{name} {amount}" for name, amount in sorted(requests.items()))
