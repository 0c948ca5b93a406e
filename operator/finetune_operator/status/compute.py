"""The status that an observation calls for."""

from datetime import datetime

from finetune_api.progress import Metrics
from finetune_api.reasons import Reason
from finetune_api.status import Condition, ConditionType, FineTuneJobStatus, Phase
from finetune_operator.objects import condition_of, holds, is_over, name_of, parse_time
from finetune_operator.observation import Observation
from finetune_operator.status.accounting import Account, compute_account
from finetune_operator.status.conditions import State, build_conditions
from finetune_operator.status.diagnosis import NEEDS_HELP, NOT_ADMITTED, Diagnosis, compute_diagnosis
from finetune_operator.status.model_cache import compute_cache_status
from finetune_operator.status.outcome import Verdict, compute_verdict, is_ending
from finetune_operator.status.queueing import compute_queue_status


def compute_status(observation: Observation, now: datetime) -> FineTuneJobStatus:
    """Return the new status. A terminal phase is never left, and nothing of it changes."""
    previous = observation.status
    if observation.deleting or (previous.phase is not None and previous.phase.is_terminal):
        return previous
    if observation.spec is None and observation.job is None:
        return _waits_for_upgrade(observation, now) if observation.is_newer else _refused(observation, now)
    verdict = compute_verdict(observation)
    if verdict is not None:
        return _ended(observation, verdict, now)
    if is_ending(observation):
        return previous  # the verdict follows; a write for the moment until then would say less
    return _underway(observation, compute_diagnosis(observation, now), now)


def _refused(observation: Observation, now: datetime) -> FineTuneJobStatus:
    """The specification can't be carried out. (A run that an older operator has started goes on, and its status with it.)"""
    message = "; ".join(observation.faults)
    states: list[State] = [
        _acceptance(observation),
        (ConditionType.SUCCEEDED, False, Reason.VALIDATION_FAILED, message),
        (ConditionType.RECONCILING, False, Reason.FAILED, ""),
        (ConditionType.STALLED, True, Reason.VALIDATION_FAILED, message),
    ]
    return observation.status.model_copy(
        update={
            "observed_generation": observation.generation,
            "phase": Phase.FAILED,
            "conditions": _conditions(observation, states, now),
            "completion_time": now,
        }
    )


def _waits_for_upgrade(observation: Observation, now: datetime) -> FineTuneJobStatus:
    """The specification may be fine: this operator is older than the resource definition, after a half-done upgrade or a roll-back."""
    message = f"{'; '.join(observation.faults)} (of a newer release: upgrade the operator)"
    states: list[State] = [
        _acceptance(observation),
        (ConditionType.SUCCEEDED, None, Reason.UNKNOWN_FIELDS, message),
        (ConditionType.RECONCILING, False, Reason.UNKNOWN_FIELDS, ""),
        (ConditionType.STALLED, True, Reason.UNKNOWN_FIELDS, message),
    ]
    update = {
        "observed_generation": observation.generation,
        "phase": Phase.PENDING,
        "conditions": _conditions(observation, states, now),
    }
    return observation.status.model_copy(update=update)


def _underway(observation: Observation, diagnosis: Diagnosis, now: datetime) -> FineTuneJobStatus:
    reason, message = diagnosis.reason, diagnosis.message
    running = diagnosis.phase is Phase.RUNNING
    suspended = diagnosis.phase is Phase.SUSPENDED
    admitted: bool | None = False if reason in NOT_ADMITTED or suspended else None
    let_go = observation.workload is not None and holds(observation.workload, "Admitted") and not suspended
    if running or diagnosis.phase is Phase.STARTING or let_go:
        admitted = True
    needs_help = reason in NEEDS_HELP
    states: list[State] = [
        _acceptance(observation),
        (ConditionType.ADMITTED, admitted, reason if admitted is False else Reason.IN_PROGRESS, message if admitted is False else ""),
        (ConditionType.RUNNING, running, reason, message),
        (ConditionType.SUSPENDED, suspended, Reason.SUSPENDED if suspended else Reason.NOT_SUSPENDED, ""),
        (ConditionType.SUCCEEDED, None, reason, message),
        (ConditionType.RECONCILING, not needs_help and not suspended, Reason.SUSPENDED if suspended else Reason.IN_PROGRESS, ""),
        (ConditionType.STALLED, needs_help, reason if needs_help else Reason.IN_PROGRESS, message if needs_help else ""),
    ]
    # A queue may take a run's quota back and let its pods be deleted before the last of them was seen to end.
    waits = diagnosis.phase is Phase.QUEUED and all(is_over(pod) for pod in (*observation.pods, *observation.leftovers))
    return _build(observation, diagnosis.phase, states, now, stopped=suspended or waits)


def _ended(observation: Observation, verdict: Verdict, now: datetime) -> FineTuneJobStatus:
    failed = not verdict.succeeded
    states: list[State] = [
        _acceptance(observation),
        (ConditionType.ADMITTED, True, Reason.FINISHED, ""),
        (ConditionType.RUNNING, False, Reason.FINISHED, ""),
        (ConditionType.SUSPENDED, False, Reason.NOT_SUSPENDED, ""),
        (ConditionType.SUCCEEDED, verdict.succeeded, verdict.reason, verdict.message),
        (ConditionType.RECONCILING, False, Reason.RECONCILED, ""),
        (ConditionType.STALLED, failed, verdict.reason if failed else Reason.RECONCILED, verdict.message if failed else ""),
    ]
    status = _build(observation, Phase.SUCCEEDED if verdict.succeeded else Phase.FAILED, states, now, stopped=True)
    summary = verdict.summary
    last_words: dict[str, object] = {"completion_time": now}
    if summary is not None:
        # The summary is the last word on what reports have told so far; from here on, reports are refused.
        last_words["artifacts"] = summary.artifacts
        last_words["progress"] = summary.progress or status.progress
        last_words["dataset"] = summary.dataset or status.dataset
        told = {name: value for name in Metrics.model_fields if (value := getattr(summary.metrics, name)) not in (None, [])}
        last_words["metrics"] = (status.metrics or Metrics()).model_copy(update=told)
    return status.model_copy(update=last_words)


def _build(
    observation: Observation,
    phase: Phase,
    states: list[State],
    now: datetime,
    *,
    stopped: bool,
) -> FineTuneJobStatus:
    spec = observation.spec
    gpus = spec.resources.gpus * spec.resources.nodes if spec is not None else observation.status.gpus or 0
    previous = observation.status
    account = compute_account(previous, observation.pods, gpus, now=now, stopped=stopped)
    queued_since, queued_seconds = _count_waiting(observation, account, phase, now)
    attempt = observation.attempt if observation.attempt is not None else observation.status.attempt
    return observation.status.model_copy(
        update={
            "observed_generation": observation.generation,
            "phase": phase,
            "conditions": _conditions(observation, states, now),
            "attempt": attempt,
            "job_name": name_of(observation.job) if observation.job is not None else observation.status.job_name,
            "pod": account.pod,
            "restarts": account.restarts,
            "gpus": gpus,
            "gpu_seconds": account.gpu_seconds,
            "queue": compute_queue_status(observation),
            "queued_since": queued_since,
            "queued_seconds": queued_seconds,
            "running_seconds": account.running_seconds,
            "failures": account.failures,
            "interruptions": account.interruptions,
            "attempt_interruptions": (previous.attempt_interruptions if previous.attempt == attempt else 0)
            + account.interruptions
            - previous.interruptions,
            "start_time": account.start_time,
            "model_cache": compute_cache_status(
                previous.model_cache, observation.defaults.model_cache if observation.defaults is not None else None, observation.pods
            ),
        }
    )


def _count_waiting(observation: Observation, account: Account, phase: Phase, now: datetime) -> tuple[datetime | None, int]:
    """Return since when the run waits (None while it doesn't), and the seconds that it has waited before.

    The operator may have looked away: where the pods tell when a wait began or ended, they are believed.
    """
    previous = observation.status
    since, seconds = previous.queued_since, previous.queued_seconds
    if phase in (Phase.PENDING, Phase.QUEUED):
        ended = account.pod.end_time if account.pod is not None else None
        began = observation.created if previous.phase is None else ended if previous.phase is not Phase.SUSPENDED else None
        return since or began or now, seconds
    unseen = since is None and previous.phase is None  # what it waited before its first status counts, too
    since = observation.created if unseen else since
    if since is None:
        return None, seconds
    placed = [
        time
        for pod in observation.pods
        if (time := parse_time((condition_of(pod, "PodScheduled") or {}).get("lastTransitionTime"))) is not None and since <= time <= now
    ]
    if unseen and not placed:
        return None, seconds  # suspended, say: it waited for nobody
    return None, seconds + max(0, round(((placed[-1] if placed else now) - since).total_seconds()))


def _conditions(observation: Observation, states: list[State], now: datetime) -> list[Condition]:
    return build_conditions(observation.status.conditions, states, generation=observation.generation, now=now)


def _acceptance(observation: Observation) -> State:
    if observation.spec is None:
        reason = Reason.UNKNOWN_FIELDS if observation.is_newer else Reason.VALIDATION_FAILED
        return (ConditionType.ACCEPTED, False, reason, "; ".join(observation.faults))
    simulated = observation.simulated_gpus and observation.spec.resources.gpus > 0
    message = "This cluster's GPUs are simulated: the run trains on the CPU." if simulated else ""
    if observation.need is not None:
        message = observation.need.words
        if observation.shortage is not None:
            message = f"{message} {observation.shortage}"
        elif not observation.nodes_known:
            message = _said_before(observation, message)
    return (ConditionType.ACCEPTED, True, Reason.VALID, message)


def _said_before(observation: Observation, beginning: str) -> str:
    """Return the words that stand in status, where they begin alike: nodes are looked at only while the run waits for one."""
    before = next((each for each in observation.status.conditions if each.type == ConditionType.ACCEPTED), None)
    if before is None or before.observed_generation != observation.generation or not before.message.startswith(f"{beginning} "):
        return beginning
    return before.message
