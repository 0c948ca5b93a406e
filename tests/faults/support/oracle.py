"""What must hold whatever went wrong on the way: the end is a clean run's, and the history breaks no promise."""

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from finetune_api.names import LABEL_ATTEMPT, LABEL_JOB_UID
from tests.faults.support.direct import Object
from tests.faults.support.witness import FINETUNEJOBS, JOBS, PODS, Sighting

TERMINAL: Final = ("Succeeded", "Failed")
_RISING: Final = ("attempt", "restarts", "gpuSeconds", "runningSeconds", "queuedSeconds")
_OPERATOR: Final = "finetune-operator"


def build_state(current: Iterable[Sighting], history: Iterable[Sighting]) -> Object:
    """Return the state of a namespace without what differs from run to run: names, UIDs, times, and how long anything took."""
    current = list(current)
    labels = _name_everything(history)
    state: Object = {"finetunejobs": [], "jobs": [], "pods": [], "orphans": []}
    owners = {sighting.uid for sighting in current}
    for sighting in sorted(
        current, key=lambda each: (each.path, each.body["metadata"]["creationTimestamp"], each.body["metadata"]["name"])
    ):
        body, metadata = sighting.body, sighting.body["metadata"]
        if sighting.path == FINETUNEJOBS:
            status = _normalise_status(body.get("status", {}))
            state["finetunejobs"].append({"name": metadata["name"], "suspend": body["spec"].get("suspend", False), "status": status})
            continue
        controller = next((owner["uid"] for owner in metadata.get("ownerReferences", ()) if owner.get("controller")), None)
        if controller not in owners:
            state["orphans"].append(metadata["name"])
        if sighting.path == JOBS:
            true = sorted(each["type"] for each in body.get("status", {}).get("conditions", ()) if each["status"] == "True")
            ends = {key: body.get("status", {}).get(key, 0) for key in ("succeeded", "failed")}
            state["jobs"].append({"name": metadata["name"], "suspend": body["spec"].get("suspend", False), "conditions": true, **ends})
        else:
            state["pods"].append({"attempt": metadata["labels"].get(LABEL_ATTEMPT), "phase": body.get("status", {}).get("phase")})
    text = json.dumps(state, sort_keys=True)
    for name, label in labels.items():
        text = text.replace(name, label)
    normalised: Object = json.loads(text)
    return normalised


def find_broken_promises(history: Sequence[Sighting], *, jobs_of_an_attempt: int = 1) -> list[str]:
    """Return what happened that must never happen.

    ``jobs_of_an_attempt``: how many Jobs of one attempt there may have been one after the other; more than one only where a test
    deletes them by hand.
    """
    return [
        *_find_changed_ends(history),
        *_find_lost_updates(history),
        *_find_doubles(history, JOBS, "unfinished Jobs", _is_unfinished_job),
        *_find_doubles(history, PODS, "running pods", _is_running_pod),
        *_find_repeated_jobs(history, jobs_of_an_attempt),
    ]


def read_operator_writes(audit_log: Path, namespaces: set[str], since: datetime) -> list[str]:
    """Return the writes that the operator made in ``namespaces`` after ``since``, from the API server's audit log."""
    writes = []
    with audit_log.open() as lines:
        for line in lines:
            if not line.endswith("\n"):
                break  # is being written
            entry = json.loads(line)
            target = entry.get("objectRef", {})
            if not entry.get("userAgent", "").startswith(_OPERATOR) or target.get("namespace") not in namespaces:
                continue
            if datetime.fromisoformat(entry["stageTimestamp"]) > since:
                writes.append(f"{entry['verb']} {target['resource']}/{target.get('name')} {entry['responseStatus'].get('code')}")
    return writes


def _name_everything(history: Iterable[Sighting]) -> dict[str, str]:
    """Return a label for each Job's and pod's name, the longest names first."""
    labels = {}
    for sighting in history:
        name, kind = sighting.body["metadata"]["name"], {JOBS: "job", PODS: "pod"}.get(sighting.path)
        if kind is not None:
            attempt = sighting.body["metadata"]["labels"].get(LABEL_ATTEMPT)
            labels[name] = f"<{kind} of attempt {attempt}>"
    return dict(sorted(labels.items(), key=lambda item: -len(item[0])))


def _normalise_status(status: Object) -> Object:
    kept: dict[str, Any] = {
        key: value
        for key, value in status.items()
        if key not in ("gpuSeconds", "runningSeconds", "queuedSeconds", "startTime", "completionTime", "pod", "conditions")
    }
    kept["started"], kept["completed"] = "startTime" in status, "completionTime" in status
    kept["pod"] = {"known": "pod" in status, "accounted": "endTime" in status.get("pod", {})}
    kept["conditions"] = {
        each["type"]: {key: value for key, value in each.items() if key not in ("lastTransitionTime", "type")}
        for each in status.get("conditions", ())
    }
    # A Job's name in full, as far as it isn't known from the history (a Job that was never made).
    if "jobName" in kept:
        kept["jobName"] = re.sub(r"-[0-9a-f]{5}-(\d+)$", r"-<hash>-\1", kept["jobName"])
    return kept


def _runs(history: Iterable[Sighting]) -> dict[str, list[Sighting]]:
    runs: defaultdict[str, list[Sighting]] = defaultdict(list)
    for sighting in history:
        if sighting.path == FINETUNEJOBS:
            runs[sighting.uid].append(sighting)
    return runs


def _find_changed_ends(history: Iterable[Sighting]) -> list[str]:
    broken = []
    for uid, versions in _runs(history).items():
        end: Object | None = None
        for version in versions:
            status = version.body.get("status", {})
            if end is not None and status != end:
                broken.append(f"run {uid} had ended as {end['phase']}, and its status changed: {status}")
            if end is None and status.get("phase") in TERMINAL:
                end = status
    return broken


def _find_lost_updates(history: Iterable[Sighting]) -> list[str]:
    broken = []
    for uid, versions in _runs(history).items():
        for before, after in pairwise(versions):
            old, new = before.body.get("status", {}), after.body.get("status", {})
            broken += [f"run {uid}: {key} fell from {old[key]} to {new.get(key)}" for key in _RISING if new.get(key, 0) < old.get(key, 0)]
            if old.get("startTime") not in (None, new.get("startTime")):
                broken.append(f"run {uid}: startTime changed from {old['startTime']} to {new.get('startTime')}")
            if old.get("progress", {}).get("step", 0) > new.get("progress", {}).get("step", 0):
                broken.append(f"run {uid}: progress fell from {old['progress']} to {new.get('progress')}")
    return broken


def _find_doubles(history: Iterable[Sighting], path: str, words: str, is_live: Any) -> list[str]:
    live: defaultdict[str, set[str]] = defaultdict(set)
    broken = []
    for sighting in history:
        if sighting.path != path:
            continue
        of_run = live[sighting.body["metadata"]["labels"][LABEL_JOB_UID]]
        if sighting.type != "DELETED" and is_live(sighting.body):
            of_run.add(sighting.body["metadata"]["name"])
            if len(of_run) > 1:
                broken.append(f"two {words} at once: {sorted(of_run)}")
        else:
            of_run.discard(sighting.body["metadata"]["name"])
    return broken


def _find_repeated_jobs(history: Iterable[Sighting], allowed: int) -> list[str]:
    jobs = {
        sighting.uid: (sighting.body["metadata"]["labels"][LABEL_JOB_UID], sighting.body["metadata"]["labels"][LABEL_ATTEMPT])
        for sighting in history
        if sighting.path == JOBS
    }
    counts = Counter(jobs.values())
    return [f"{count} Jobs of run {run}, attempt {attempt}" for (run, attempt), count in counts.items() if count > allowed]


def _is_unfinished_job(job: Object) -> bool:
    conditions = job.get("status", {}).get("conditions", ())
    return not any(each["type"] in ("Complete", "Failed") and each["status"] == "True" for each in conditions)


def _is_running_pod(pod: Object) -> bool:
    return bool(pod.get("status", {}).get("phase") == "Running")
