"""The Job controller and a kubelet over an API server in memory: as much of them as a run's life needs, one step at a time."""

import itertools
from collections import Counter
from collections.abc import Iterator
from typing import Any, Final

from finetune_api.exit_codes import ExitCode, codes_with_retry
from finetune_api.names import LABEL_ATTEMPT, TRAINER_CONTAINER
from finetune_api.reasons import Reason
from finetune_operator.kube.client import JOBS, PODS
from tests.support.in_memory_api import InMemoryApi
from tests.support.manifests import Manifest
from tests.support.world import build_summary

_TIME: Final = "2026-01-02T03:04:05Z"
_ENDED: Final = ("Succeeded", "Failed")


class PlayedControllers:
    """Makes pods for Jobs, lets them run, and counts their ends."""

    def __init__(self, api: InMemoryApi, exit_codes: Iterator[int]) -> None:
        self._api = api
        self._exit_codes = exit_codes
        self._names = itertools.count()
        self.faults: list[str] = []
        """What must never happen and did."""
        self.interruptions: Counter[int] = Counter()
        """Pods that were asked to stop, by the attempt of their Job."""
        self.last_code: int | None = None
        """How the last trainer left by itself."""

    def control_jobs(self) -> None:
        """Let the Job controller look at every Job once."""
        unfinished = [job for job in self._api.all(JOBS) if not _conditions(job, "Complete", "Failed")]
        if len(unfinished) > 1:
            self.faults.append(f"{len(unfinished)} unfinished Jobs at once")
        for job in unfinished:
            self._control(job)

    def run_pods(self) -> None:
        """Let each pod take one step: to run, and then to leave."""
        for pod in self._api.all(PODS):
            phase = pod["status"]["phase"]
            if phase == "Pending":
                self._report(pod, "Running", {"running": {"startedAt": _TIME}})
            elif phase == "Running":
                self.last_code = next(self._exit_codes)
                self._end(pod, self.last_code)

    def stop_pods(self) -> None:
        """Ask every pod to stop, as a drain does: the trainer checkpoints and leaves."""
        for pod in self._api.all(PODS):
            if pod["status"]["phase"] not in _ENDED:
                self._end(pod, int(ExitCode.INTERRUPTED))

    def collect_garbage(self) -> None:
        """Remove pods whose Job is gone."""
        jobs = {job["metadata"]["uid"] for job in self._api.all(JOBS)}
        for key, pod in list(self._api.objects[PODS].items()):
            if pod["metadata"]["ownerReferences"][0]["uid"] not in jobs:
                del self._api.objects[PODS][key]

    def _control(self, job: Manifest) -> None:
        pods = [pod for pod in self._api.all(PODS) if pod["metadata"]["ownerReferences"][0]["uid"] == job["metadata"]["uid"]]
        codes = [_exit_code(pod) for pod in pods if pod["status"]["phase"] in _ENDED]
        counted = sum(code in codes_with_retry("counted") for code in codes)
        if 0 in codes:
            return self._finish(job, "Complete", "CompletionsReached", {"succeeded": 1, "failed": counted})
        if any(code in codes_with_retry("never") for code in codes):
            return self._finish(job, "Failed", "PodFailurePolicy", {"failed": counted + 1})
        if counted > job["spec"]["backoffLimit"]:
            return self._finish(job, "Failed", "BackoffLimitExceeded", {"failed": counted})
        alive = [pod for pod in pods if pod["status"]["phase"] not in _ENDED]
        if job["spec"].get("suspend"):
            for pod in alive:
                self._end(pod, int(ExitCode.INTERRUPTED))
        elif not alive:
            self._make_pod(job)
        if (job.get("status") or {}).get("failed", 0) != counted:
            self._api.seed(JOBS, {**job, "status": {**(job.get("status") or {}), "failed": counted}})
        return None

    def _make_pod(self, job: Manifest) -> None:
        template = job["spec"]["template"]
        owner = {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "name": job["metadata"]["name"],
            "uid": job["metadata"]["uid"],
            "controller": True,
        }
        name = f"pod-{next(self._names):03}"
        if alive := [pod["metadata"]["name"] for pod in self._api.all(PODS) if pod["status"]["phase"] not in _ENDED]:
            self.faults.append(f"{name} is made while {alive} may still write to the same place")
        metadata = {
            "name": name,
            "namespace": job["metadata"]["namespace"],
            "uid": f"uid-{name}",
            "creationTimestamp": _TIME,
            "labels": template["metadata"]["labels"],
            "ownerReferences": [owner],
        }
        spec = {"nodeName": "node", "containers": template["spec"]["containers"]}
        self._api.seed(PODS, {"metadata": metadata, "spec": spec, "status": {"phase": "Pending"}})

    def _finish(self, job: Manifest, kind: str, reason: str, counts: dict[str, int]) -> None:
        condition = {"type": kind, "status": "True", "reason": reason, "message": ""}
        self._api.seed(JOBS, {**job, "status": {**(job.get("status") or {}), **counts, "conditions": [condition]}})

    def _end(self, pod: Manifest, code: int) -> None:
        self.interruptions[int(pod["metadata"]["labels"][LABEL_ATTEMPT])] += code == ExitCode.INTERRUPTED
        outcomes: dict[int, tuple[str, Reason]] = {0: ("completed", Reason.COMPLETED), 75: ("interrupted", Reason.INTERRUPTED)}
        message = build_summary(*outcomes[code]) if code in outcomes else ""
        terminated = {"exitCode": code, "reason": "x", "message": message, "startedAt": _TIME, "finishedAt": _TIME}
        self._report(pod, "Succeeded" if code == 0 else "Failed", {"terminated": terminated})

    def _report(self, pod: Manifest, phase: str, state: Manifest) -> None:
        statuses = [{"name": TRAINER_CONTAINER, "state": state}]
        self._api.seed(PODS, {**pod, "status": {"phase": phase, "containerStatuses": statuses}})


def _exit_code(pod: Manifest) -> int:
    code: Any = pod["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"]
    return int(code)


def _conditions(body: Manifest, *kinds: str) -> list[str]:
    conditions = (body.get("status") or {}).get("conditions", ())
    return [each["type"] for each in conditions if each["type"] in kinds and each["status"] == "True"]
