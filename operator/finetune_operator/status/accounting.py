"""Restarts and GPU time: counted once for each pod, whenever and however often it is seen."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from finetune_api.status import FineTuneJobStatus, PodReference
from finetune_operator.objects import Object, has_started, is_lost, is_over, name_of, parse_time, trainer_status_of, uid_of
from finetune_operator.status.outcome import compute_pod_outcome

_EPOCH = datetime.fromtimestamp(0, UTC)


@dataclass(frozen=True, slots=True)
class Account:
    """What has been used so far. The pod's ``end_time`` says that its time is in the sum."""

    pod: PodReference | None
    restarts: int
    gpu_seconds: int
    start_time: datetime | None
    running_seconds: int = 0
    failures: int = 0
    interruptions: int = 0


def compute_account(previous: FineTuneJobStatus, pods: Sequence[Object], gpus: int, *, now: datetime, stopped: bool) -> Account:
    """Bring the account up to date with ``pods``, oldest first.

    A pod that ran and can't be seen any more is taken to have ended when the next one started, or ``now`` if the run has ``stopped``.
    """
    account = Account(
        previous.pod,
        previous.restarts,
        previous.gpu_seconds,
        previous.start_time,
        previous.running_seconds,
        previous.failures,
        previous.interruptions,
    )
    seen = {uid_of(pod): pod for pod in pods}
    new = _newer_than(account.pod, sorted((pod for pod in pods if has_started(pod)), key=_age))
    if account.pod is not None:
        last = seen.get(account.pod.uid)
        ended = _end_of(last, now) if last is not None else now if stopped else None
        account = _close(account, ended or (_start_of(new[0]) if new else None), gpus, last)
    for index, pod in enumerate(new):
        reference = PodReference(name=name_of(pod), uid=uid_of(pod), node_name=pod["spec"].get("nodeName"), start_time=_start_of(pod))
        restarts = account.restarts + (account.pod is not None)
        account = replace(account, pod=reference, restarts=restarts, start_time=account.start_time or reference.start_time)
        ended = _end_of(pod, now) or (_start_of(new[index + 1]) if index + 1 < len(new) else None)
        account = _close(account, ended, gpus, pod)
    return account


def _newer_than(last: PodReference | None, ran: list[Object]) -> list[Object]:
    """Return what ran after ``last``: by its place among those that can be seen, or else by its time."""
    uids = [uid_of(pod) for pod in ran]
    if last is None:
        return ran
    if last.uid in uids:
        return ran[uids.index(last.uid) + 1 :]
    return [pod for pod in ran if last.start_time is None or _start_of(pod) >= last.start_time]


def _age(pod: Object) -> tuple[datetime, datetime, bool]:
    return _creation_of(pod), _start_of(pod), not is_over(pod)


def _creation_of(pod: Object) -> datetime:
    return parse_time(pod["metadata"]["creationTimestamp"]) or _EPOCH


def _start_of(pod: Object) -> datetime:
    """Return when the trainer started. One that failed to start has no such time, or 1970: then it is its end, and it used nothing."""
    state = trainer_status_of(pod).get("state", {})
    ended = state.get("terminated") or {}
    started = parse_time((state.get("running") or ended).get("startedAt"))
    return started if started is not None and started > _EPOCH else parse_time(ended.get("finishedAt")) or _creation_of(pod)


def _end_of(pod: Object, now: datetime) -> datetime | None:
    """Return when the trainer ended, None while the pod is not over.

    The kubelet says that a container has ended a second or two before it says so of the pod: a write for that moment would tell nothing
    new. A pod that was lost with its node is over and has no such time: then it is ``now``.
    """
    if is_lost(pod, now):
        return parse_time(pod["metadata"]["deletionTimestamp"])
    if not is_over(pod):
        return None
    ended = trainer_status_of(pod).get("state", {}).get("terminated") or {}
    return parse_time(ended.get("finishedAt")) or now


def _close(account: Account, ended: datetime | None, gpus: int, body: Object | None) -> Account:
    pod = account.pod
    if pod is None or ended is None or pod.end_time is not None:
        return account
    seconds = max(0, round((ended - pod.start_time).total_seconds())) if pod.start_time is not None else 0
    closed = pod.model_copy(update={"end_time": ended})
    outcome = compute_pod_outcome(body) if body is not None else None
    # A pod that went without a word of how was deleted or lost: the Job's controller counts no failure either.
    retry = outcome.retry if outcome is not None else "free"
    return replace(
        account,
        pod=closed,
        gpu_seconds=account.gpu_seconds + gpus * seconds,
        running_seconds=account.running_seconds + seconds,
        failures=account.failures + (retry == "counted"),
        interruptions=account.interruptions + (retry == "free"),
    )
