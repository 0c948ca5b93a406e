"""A pod's status in a kubelet's words. Pure: the time is an argument."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

MESSAGE_LIMIT = 4096
LOG_MESSAGE_LIMIT = 2048
_LOG_MESSAGE_LINES = 80


@dataclass(frozen=True)
class Ended:
    """How a process ended."""

    exit_code: int
    started: datetime
    finished: datetime
    message: str


@dataclass(frozen=True)
class Progress:
    """How far a pod is. At most one of `waiting`, `running` and `ended` is set."""

    waiting: tuple[str, str] | None = None
    """Reason and message of a container that does not run yet."""
    running: datetime | None = None
    """When the process that runs was started."""
    ended: Ended | None = None
    last_ended: Ended | None = None
    restarts: int = 0
    ready: bool = False
    rejected: tuple[str, str] | None = None
    """Reason and message of a pod that was refused as a whole."""


def build_status(pod: Mapping[str, Any], progress: Progress, address: str, now: datetime, *, final: bool) -> dict[str, Any]:
    """Build a pod's status.

    Args:
        final: whether the container, having ended, stays ended: then the pod is over.
    """
    container = pod["spec"]["containers"][0]
    if progress.rejected is not None:
        reason, message = progress.rejected
        return {"phase": "Failed", "reason": reason, "message": message, "conditions": _conditions(pod, progress, "Failed", now)}
    phase = _phase(progress, final=final)
    container_status = {
        "name": container["name"],
        "image": container["image"],
        "imageID": f"process-node://{container['image']}" if progress.running or progress.ended else "",
        "restartCount": progress.restarts,
        "ready": progress.ready and progress.running is not None,
        "started": progress.running is not None,
        "state": _build_state(progress),
        "lastState": {} if progress.last_ended is None else {"terminated": _build_terminated(progress.last_ended)},
    }
    return {
        "phase": phase,
        "hostIP": address,
        "hostIPs": [{"ip": address}],
        "podIP": address,
        "podIPs": [{"ip": address}],
        "startTime": pod.get("status", {}).get("startTime") or format_time(now),
        "qosClass": pod.get("status", {}).get("qosClass", "BestEffort"),
        "containerStatuses": [container_status],
        "conditions": _conditions(pod, progress, phase, now),
    }


def compute_exit_code(return_code: int) -> int:
    """Return a container's exit code from a process' return code: 128 and the signal for one that was killed."""
    return 128 - return_code if return_code < 0 else return_code


def compute_message(written: str, log: str, policy: str, exit_code: int) -> str:
    """Return the termination message: what the container wrote, or, if its policy says so, the end of its log."""
    if written or policy != "FallbackToLogsOnError" or exit_code == 0:
        return written.encode()[:MESSAGE_LIMIT].decode(errors="ignore")
    lines = "\n".join(log.splitlines()[-_LOG_MESSAGE_LINES:])
    return lines.encode()[-LOG_MESSAGE_LIMIT:].decode(errors="ignore")


def restarts(pod: Mapping[str, Any], exit_code: int) -> bool:
    """Tell whether a container that ended is started again, by the pod's restart policy."""
    policy = pod["spec"].get("restartPolicy", "Always")
    return policy == "Always" or (policy == "OnFailure" and exit_code != 0)


def format_time(moment: datetime) -> str:
    """Return a moment as Kubernetes writes it: UTC, whole seconds."""
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def _phase(progress: Progress, *, final: bool) -> str:
    if progress.ended is not None and final:
        return "Failed" if progress.ended.exit_code else "Succeeded"
    if progress.running is not None or progress.ended is not None or progress.restarts:
        return "Running"
    return "Pending"


def _build_state(progress: Progress) -> dict[str, Any]:
    if progress.ended is not None:
        return {"terminated": _build_terminated(progress.ended)}
    if progress.running is not None:
        return {"running": {"startedAt": format_time(progress.running)}}
    reason, message = progress.waiting or ("ContainerCreating", "")
    return {"waiting": {"reason": reason, **({"message": message} if message else {})}}


def _build_terminated(ended: Ended) -> dict[str, Any]:
    return {
        "exitCode": ended.exit_code,
        "reason": "Error" if ended.exit_code else "Completed",
        "startedAt": format_time(ended.started),
        "finishedAt": format_time(ended.finished),
        **({"message": ended.message} if ended.message else {}),
    }


def _conditions(pod: Mapping[str, Any], progress: Progress, phase: str, now: datetime) -> list[dict[str, Any]]:
    ready = progress.ready and phase == "Running" and progress.running is not None
    over = {"Succeeded": "PodCompleted", "Failed": "PodFailed"}.get(phase)
    why = {} if ready else {"reason": over or "ContainersNotReady"}
    initialized = progress.rejected is None
    states = {"PodReadyToStartContainers": initialized and not over, "Initialized": initialized, "ContainersReady": ready, "Ready": ready}
    before = {each["type"]: each for each in pod.get("status", {}).get("conditions", [])}

    def since(kind: str, word: str) -> str:
        known = before.get(kind, {})
        return str(known["lastTransitionTime"]) if known.get("status") == word else format_time(now)

    words = {kind: "True" if holds else "False" for kind, holds in states.items()}
    return [
        {
            "type": kind,
            "status": word,
            "lastTransitionTime": since(kind, word),
            **(why if kind in ("ContainersReady", "Ready") else {}),
        }
        for kind, word in words.items()
    ]
