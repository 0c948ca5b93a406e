"""How a pod ended, and how the run ended: read from the Job and from the trainer's last words."""

import signal
from dataclasses import dataclass
from typing import Final

from finetune_api.exit_codes import OUTCOMES, ExitCode, Outcome, Retry
from finetune_api.reasons import Reason
from finetune_api.summary import TrainerSummary, decode_summary
from finetune_operator.objects import Object, condition_of, holds, is_finished, is_over, name_of, trainer_status_of
from finetune_operator.observation import Observation

LOG_TAIL_CHARACTERS: Final = 600
"""Of a log's end, this much is quoted where the trainer left no summary."""


@dataclass(frozen=True, slots=True)
class PodOutcome:
    """How one pod ended."""

    reason: Reason
    message: str
    retry: Retry
    summary: TrainerSummary | None


@dataclass(frozen=True, slots=True)
class Verdict:
    """How the run ended."""

    succeeded: bool
    reason: Reason
    message: str
    summary: TrainerSummary | None = None


def compute_pod_outcome(pod: Object) -> PodOutcome | None:
    """Return how ``pod`` ended, or None while it has not."""
    if not is_over(pod):
        return None
    terminated: Object = trainer_status_of(pod).get("state", {}).get("terminated") or {}
    exit_code = terminated.get("exitCode")
    disruption = condition_of(pod, "DisruptionTarget")
    summary = decode_summary(terminated.get("message") or "")
    known = OUTCOMES.get(ExitCode(exit_code)) if exit_code in set(ExitCode) else None
    # In the order of the Job's failure policy: a code that decides by itself, then the disruption, then the budget.
    if known is not None and known.retry != "counted":
        return PodOutcome(known.reason, _describe_exit(exit_code, known, summary), known.retry, summary)
    if disruption is not None and disruption["status"] == "True":
        return PodOutcome(Reason.INTERRUPTED, f"Pod {name_of(pod)} was disrupted: {disruption.get('message', '')}", "free", summary)
    if _is_over_storage_limit(pod):
        return PodOutcome(Reason.STORAGE_FAILED, _describe_eviction(pod), "counted", summary)
    if terminated.get("reason") == "OOMKilled":
        limit = pod["spec"]["containers"][0].get("resources", {}).get("limits", {}).get("memory", "its limit")
        message = f"Pod {name_of(pod)} used more memory than {limit} and was killed. Raise resources.memory or lower the batch."
        return PodOutcome(Reason.OUT_OF_MEMORY, message, "counted", summary)
    if known is not None and exit_code != ExitCode.CRASHED:
        return PodOutcome(known.reason, _describe_exit(exit_code, known, summary), known.retry, summary)
    return PodOutcome(Reason.TRAINER_CRASHED, _describe_crash(pod, terminated, summary), "counted", summary)


def lacks_ends(observation: Observation) -> bool:
    """True where the run's Job has ended and counts more ended pods than can be seen. A Job ends only after its pods have.

    By how they ended: one that a suspension has stopped, and whose deletion was missed, must not stand for the one that completed.
    """
    job, phase = observation.job, observation.status.phase
    if job is None or not is_finished(job) or (phase is not None and phase.is_terminal):
        return False
    counts, pods = job.get("status", {}), observation.pods
    succeeded = sum(pod.get("status", {}).get("phase") == "Succeeded" for pod in pods)
    return not all(map(is_over, pods)) or succeeded < counts.get("succeeded", 0) or len(pods) - succeeded < counts.get("failed", 0)


def is_ending(observation: Observation) -> bool:
    """True where the run's end is certain, and only the Job's controller has yet to say so, about a second after the pod."""
    job = observation.job
    if job is None or is_finished(job) or not all(map(is_over, observation.pods)):
        return False
    outcomes = [outcome for pod in observation.pods if (outcome := compute_pod_outcome(pod)) is not None]
    return any(outcome.retry == "never" for outcome in outcomes) or count_crashes(observation) > job["spec"]["backoffLimit"]


def count_crashes(observation: Observation) -> int:
    """Return how much of the Job's ``backoffLimit`` is used: by the pods that can be seen, or by the Job's own count, which comes later."""
    outcomes = [outcome for pod in observation.pods if (outcome := compute_pod_outcome(pod)) is not None]
    counted = observation.job.get("status", {}).get("failed", 0) if observation.job is not None else 0
    return max(counted, sum(outcome.retry == "counted" for outcome in outcomes))


def budget_of(observation: Observation) -> int:
    """Return the run's ``backoffLimit``. Its Job has what former attempts have left of it."""
    assert observation.job is not None  # noqa: S101  # for the type checker; the caller has looked
    of_job: int = observation.job["spec"]["backoffLimit"]
    return observation.spec.backoff_limit if observation.spec is not None else of_job


def compute_verdict(observation: Observation) -> Verdict | None:
    """Return how the run ended, or None while it has not."""
    job = observation.job
    if job is None:
        return None
    if holds(job, "Complete"):
        return _verdict_of_completion(observation)
    failure = condition_of(job, "Failed")
    if failure is None or failure["status"] != "True":
        return None
    if failure.get("reason") == "DeadlineExceeded":
        return _verdict_of_deadline(observation)
    outcomes = [outcome for pod in observation.pods if (outcome := compute_pod_outcome(pod)) is not None]
    failed = [outcome for outcome in outcomes if outcome.retry != "free" and outcome.reason is not Reason.COMPLETED]
    if not failed:
        return Verdict(succeeded=False, reason=Reason.BACKOFF_LIMIT_EXCEEDED, message=failure.get("message", "The Job failed."))
    last = failed[-1]
    message = last.message
    if failure.get("reason") == "BackoffLimitExceeded":
        message = f"{message} Given up after {_count(budget_of(observation), 'retry', 'retries')} (spec.backoffLimit)."
    return Verdict(succeeded=False, reason=last.reason, message=message, summary=last.summary)


def _verdict_of_completion(observation: Observation) -> Verdict | None:
    if not observation.pods:
        return None  # the plan makes another attempt, which finds the result in the store
    outcomes = [outcome for pod in observation.pods if (outcome := compute_pod_outcome(pod)) is not None]
    summaries = [outcome.summary for outcome in outcomes if outcome.reason is Reason.COMPLETED and outcome.summary is not None]
    published = [summary for summary in summaries if summary.outcome == "completed" and summary.artifacts]
    if not published:
        message = "The trainer's pod completed but named no verified artifact in its summary. See its log; the output may be incomplete."
        return Verdict(succeeded=False, reason=Reason.RESULT_MISSING, message=message)
    artifact = published[-1].artifacts[0]
    message = f"The adapter is published at {artifact.uri} ({artifact.digest})."
    return Verdict(succeeded=True, reason=Reason.COMPLETED, message=message, summary=published[-1])


def _verdict_of_deadline(observation: Observation) -> Verdict:
    summaries = [outcome.summary for pod in observation.pods if (outcome := compute_pod_outcome(pod)) is not None and outcome.summary]
    seconds = observation.job["spec"].get("activeDeadlineSeconds") if observation.job is not None else None
    message = f"The run took longer than spec.activeDeadlineSeconds ({seconds} s)."
    if summaries and summaries[-1].checkpoint_step is not None:
        message += f" Its last checkpoint is of step {summaries[-1].checkpoint_step}."
    return Verdict(succeeded=False, reason=Reason.DEADLINE_EXCEEDED, message=message, summary=summaries[-1] if summaries else None)


def _describe_exit(exit_code: int | None, known: Outcome, summary: TrainerSummary | None) -> str:
    words = summary.message if summary is not None and summary.message else f"The trainer left with exit code {exit_code}."
    if not words.endswith((".", "!", "?", "…")):
        words += "."
    return " ".join(filter(None, (words, known.advice)))


def _is_over_storage_limit(pod: Object) -> bool:
    """True of a pod that the kubelet evicted for its own use of the disk; a node that is short of something counts as a disruption.

    The kubelet tells the two apart in words only: pkg/kubelet/eviction/helpers.go of Kubernetes 1.35.
    """
    status = pod.get("status", {})
    return status.get("reason") == "Evicted" and "exceed" in status.get("message", "")


def _describe_eviction(pod: Object) -> str:
    words = pod["status"]["message"].strip().rstrip(".")
    return f"Pod {name_of(pod)} was evicted: {words}. Raise resources.ephemeralStorage: model, dataset and checkpoints have to fit."


def _describe_crash(pod: Object, terminated: Object, summary: TrainerSummary | None) -> str:
    if summary is not None and summary.message:
        return f"The trainer crashed: {summary.message} See the log of pod {name_of(pod)}."
    if not terminated:  # evicted, or lost with its node
        words = pod.get("status", {}).get("message") or pod.get("status", {}).get("reason") or "its node was lost"
        return f"Pod {name_of(pod)} failed: {words}"
    exit_code = terminated.get("exitCode", -1)
    how = f"was killed by {_signal_name(exit_code - 128)}" if exit_code > 128 else f"left with exit code {exit_code}"
    tail = (terminated.get("message") or "").strip()[-LOG_TAIL_CHARACTERS:]
    return f"The trainer of pod {name_of(pod)} {how}." + (f" The end of its log: {tail}" if tail else " It left no message.")


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"
