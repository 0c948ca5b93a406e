"""Restarts and GPU time: counted once for each pod, whenever and however often it is seen."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from finetune_api.status import FineTuneJobStatus, PodReference
from finetune_operator.objects import Object, has_started, name_of, parse_time, trainer_status_of, uid_of


@dataclass(frozen=True, slots=True)
class Account:
    """What has been used so far. The pod's ``end_time`` says that its time is in the sum."""

    pod: PodReference | None
    restarts: int
    gpu_seconds: int
    start_time: datetime | None


def compute_account(previous: FineTuneJobStatus, pods: Sequence[Object], gpus: int, *, now: datetime, stopped: bool) -> Account:
    """Bring the account up to date with ``pods``, oldest first.

    A pod that ran and can't be seen any more is taken to have ended ``now``, once a later pod runs or the run has ``stopped``.
    """
    account = Account(previous.pod, previous.restarts, previous.gpu_seconds, previous.start_time)
    seen = {uid_of(pod): pod for pod in pods}
    ran = [pod for pod in pods if has_started(pod)]
    first_new = next((index for index, pod in enumerate(ran) if _is_after(pod, account.pod)), len(ran))
    if account.pod is not None:
        ended = _end_of(seen.get(account.pod.uid))
        if ended is None and (first_new < len(ran) or (stopped and account.pod.uid not in seen)):
            ended = now
        account = _close(account, ended, gpus)
    for index, pod in enumerate(ran[first_new:], start=first_new):
        reference = _reference(pod)
        restarts = account.restarts + (account.pod is not None)
        start = account.start_time or reference.start_time
        account = Account(reference, restarts, account.gpu_seconds, start)
        account = _close(account, _end_of(pod) or (now if index + 1 < len(ran) else None), gpus)
    return account


def _is_after(pod: Object, last: PodReference | None) -> bool:
    if last is None:
        return True
    started = _reference(pod).start_time
    return uid_of(pod) != last.uid and (started is None or last.start_time is None or started >= last.start_time)


def _reference(pod: Object) -> PodReference:
    state = trainer_status_of(pod).get("state", {})
    started = (state.get("running") or state.get("terminated") or {}).get("startedAt")
    return PodReference(name=name_of(pod), uid=uid_of(pod), node_name=pod["spec"].get("nodeName"), start_time=parse_time(started))


def _end_of(pod: Object | None) -> datetime | None:
    if pod is None:
        return None
    return parse_time((trainer_status_of(pod).get("state", {}).get("terminated") or {}).get("finishedAt"))


def _close(account: Account, ended: datetime | None, gpus: int) -> Account:
    pod = account.pod
    if pod is None or ended is None or pod.end_time is not None:
        return account
    seconds = max(0, round((ended - pod.start_time).total_seconds())) if pod.start_time is not None else 0
    closed = pod.model_copy(update={"end_time": ended})
    return Account(closed, account.restarts, account.gpu_seconds + gpus * seconds, account.start_time)
