"""Restarts and GPU time: counted once for each pod, whenever and however often it is seen."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from finetune_api.status import FineTuneJobStatus, PodReference
from finetune_operator.objects import Object, has_started, index_of, is_lost, is_over, name_of, parse_time, trainer_status_of, uid_of
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

    Of a run of several pods, the first one's are taken for the group: a failure of any is the group's.

    A pod that ran and can't be seen any more is taken to have ended when the last of its group did, or the next one started, or ``now``
    if the run has ``stopped``.
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
    leaders = [pod for pod in pods if index_of(pod) == 0]
    groups = _Groups(leaders, [pod for pod in pods if index_of(pod) != 0], now)
    seen = {uid_of(pod): pod for pod in leaders}
    new = _newer_than(account.pod, sorted((pod for pod in leaders if has_started(pod)), key=_age))
    if account.pod is not None:
        last = seen.get(account.pod.uid)
        if last is not None:
            ended, members = groups.end_of(last), groups.members(last)
        else:
            ended, members = groups.rest_of(account.pod)
            ended = ended or (now if stopped else None)
        account = _close(account, ended or (_start_of(new[0]) if new else None), gpus, members)
    for index, pod in enumerate(new):
        reference = PodReference(name=name_of(pod), uid=uid_of(pod), node_name=pod["spec"].get("nodeName"), start_time=_start_of(pod))
        restarts = account.restarts + (account.pod is not None)
        account = replace(account, pod=reference, restarts=restarts, start_time=account.start_time or reference.start_time)
        ended = groups.end_of(pod) or (_start_of(new[index + 1]) if index + 1 < len(new) else None)
        account = _close(account, ended, gpus, groups.members(pod))
    return account


class _Groups:
    """The pods of each generation of a run of several: those that ended between the creation of one first pod and that of the next.

    :param leaders: the first pods, oldest first.
    """

    def __init__(self, leaders: Sequence[Object], others: Sequence[Object], now: datetime) -> None:
        self._leaders = leaders
        self._others = others
        self._now = now

    def members(self, leader: Object | None) -> list[Object]:
        """Return ``leader`` and the others that ended in its generation."""
        if leader is None:
            return []
        begins = [_creation_of(pod) for pod in self._leaders]
        index = [uid_of(pod) for pod in self._leaders].index(uid_of(leader))
        first = _EPOCH if index == 0 else begins[index]
        last = begins[index + 1] if index + 1 < len(begins) else None
        ends = [(pod, _end_of(pod, self._now)) for pod in self._others]
        return [leader, *(pod for pod, end in ends if end is not None and first <= end and (last is None or end < last))]

    def rest_of(self, leader: PodReference) -> tuple[datetime | None, list[Object]]:
        """Return when the last pod that ran beside a ``leader`` that has gone ended, and all that did; nothing while one still runs."""
        ends = [(pod, _end_of(pod, self._now)) for pod in self._others if has_started(pod)]
        if self._leaders and any(has_started(pod) for pod in self._leaders):
            return None, []  # the next generation has begun: whose the others are is not known
        known = [(pod, end) for pod, end in ends if end is not None and (leader.start_time is None or end >= leader.start_time)]
        if not known or len(known) < len(ends):
            return None, []
        return max(end for _, end in known), [pod for pod, _ in known]

    def end_of(self, leader: Object) -> datetime | None:
        """Return when ``leader`` ended; None while it is not over, or another that ran beside it is not: how that one ends may be why."""
        end = _end_of(leader, self._now)
        if end is None:
            return None
        running = any(_end_of(pod, self._now) is None and _creation_of(pod) <= end for pod in self._others)
        return None if running else end


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


def _close(account: Account, ended: datetime | None, gpus: int, bodies: Sequence[Object]) -> Account:
    pod = account.pod
    if pod is None or ended is None or pod.end_time is not None:
        return account
    seconds = max(0, round((ended - pod.start_time).total_seconds())) if pod.start_time is not None else 0
    closed = pod.model_copy(update={"end_time": ended})
    outcomes = [compute_pod_outcome(body) for body in bodies] or [None]
    # A pod that went without a word of how was deleted or lost: the Job's controller counts no failure either.
    retries = [outcome.retry if outcome is not None else "free" for outcome in outcomes]
    failures = retries.count("counted")
    return replace(
        account,
        pod=closed,
        gpu_seconds=account.gpu_seconds + gpus * seconds,
        running_seconds=account.running_seconds + seconds,
        failures=account.failures + failures,
        interruptions=account.interruptions + (failures == 0 and retries[0] == "free" and "never" not in retries[1:]),
    )
