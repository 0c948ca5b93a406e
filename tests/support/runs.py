"""FineTuneJobs on a real cluster: applied as a user does it, followed by what the cluster shows."""

import json
from collections.abc import Callable, Sequence
from typing import Any, Final

from finetune_api.summary import decode_summary
from finetune_devcluster import Cluster
from finetune_devcluster.errors import DevClusterError
from tests.support.manifests import Manifest
from tests.support.release import Release
from tests.support.timeline import FINETUNEJOBS, JOBS, PODS, Object, Sighting, Timeline, condition_of, phase_of, step_of, trainer_state_of
from tests.support.tiny_run import build_run, connect

START_SECONDS: Final = 300
"""Longest time from apply to the first step on a busy machine: loading the libraries takes most of it."""
RUN_SECONDS: Final = 300
"""Longest time from the first step to the end."""


class Runs:
    """All runs of a cluster.

    :param notes: where tests leave what they measured, for the end of the test run's output.
    """

    def __init__(self, cluster: Cluster, release: Release, timeline: Timeline, notes: list[str]) -> None:
        self.cluster = cluster
        self.release = release
        self.timeline = timeline
        self.notes = notes

    def apply(self, namespace: str, name: str, patch: Manifest | None = None) -> "Run":
        """Apply a tiny run with the merge patch ``patch`` of its spec."""
        manifest = build_run(namespace, name, self.cluster.object_store.bucket, patch)
        self.cluster.kubectl("apply", "--filename=-", stdin=json.dumps(manifest))
        return Run(self, namespace, name)

    def describe(self, namespaces: Sequence[str]) -> str:
        """Return all that may explain a failure: states, events, and the logs of trainers and operator."""
        parts = []
        for namespace in namespaces:
            parts += [self._say("--namespace", namespace, "get", "finetunejobs,jobs,pods,events", "--output=wide")]
            for job in self.timeline.alive(FINETUNEJOBS, namespace):
                parts.append(f"status of {job['metadata']['name']}: {json.dumps(job.get('status'), indent=1)}")
            for pod in self.timeline.alive(PODS, namespace):
                name = pod["metadata"]["name"]
                parts.append(f"--- log of {name}\n{self._say('--namespace', namespace, 'logs', name, '--tail=60')}")
        try:
            parts.append(f"--- log of the operator\n{self.release.log()}")
        except DevClusterError as error:
            parts.append(str(error))
        return "\n".join(parts)

    def _say(self, *words: str) -> str:
        try:
            return self.cluster.kubectl(*words)
        except DevClusterError as error:
            return str(error)


class Run:
    """One FineTuneJob."""

    def __init__(self, runs: Runs, namespace: str, name: str) -> None:
        self._runs = runs
        self._timeline = runs.timeline
        self.namespace = namespace
        self.name = name

    def wait(self, holds: Callable[[Object], object], seconds: float, what: str, since: float = 0.0) -> Sighting:
        """Return the first version of the FineTuneJob of which ``holds`` is true."""
        return self._timeline.wait_for(FINETUNEJOBS, self.namespace, self.name, holds, seconds, f"{self.name} {what}", since)

    def wait_reason(self, reason: str, seconds: float, kind: str = "Succeeded") -> Sighting:
        """Return the first version whose condition ``kind`` has this reason."""
        return self.wait(lambda body: condition_of(body, kind).get("reason") == reason, seconds, f"says {reason}")

    def wait_step(self, step: int, since: float = 0.0) -> Sighting:
        """Return the first version whose progress is at ``step`` or beyond while it runs."""
        return self.wait(
            lambda body: must_not_end(body) and phase_of(body) == "Running" and step_of(body) >= step,
            START_SECONDS,
            f"is at step {step}",
            since,
        )

    def wait_first_step(self) -> None:
        """Return as soon as the trainer's log says that it trains: seconds before the first report of it can stand in status."""
        self.wait_reason("Training", START_SECONDS)
        pod = self.pods()[-1]
        self._timeline.wait(
            lambda: must_not_end(self.history()[-1]) and '"step 1 of ' in self.log(pod), START_SECONDS, f"{self.name} trains"
        )

    def wait_phase(self, phase: str, seconds: float, since: float = 0.0) -> Sighting:
        """Return the first version in this phase; a run that has failed is not waited for."""
        return self.wait(lambda body: must_not_end(body, phase) and phase_of(body) == phase, seconds, f"is {phase}", since)

    def wait_success(self, seconds: float = START_SECONDS + RUN_SECONDS) -> Object:
        """Return the FineTuneJob as it is when it has succeeded."""
        return self.wait_phase("Succeeded", seconds).body

    def history(self, since: float = 0.0) -> list[Object]:
        """Return every version seen after ``since``."""
        return [each.body for each in self._timeline.history(FINETUNEJOBS, self.namespace, self.name, since)]

    def get(self) -> Object:
        """Return the FineTuneJob as the API server has it now."""
        body: Object = json.loads(self.kubectl("get", "finetunejob", self.name, "--output=json"))
        return body

    def delete(self) -> None:
        """Delete it; its pod is told to stop, and not waited for."""
        self.kubectl("delete", "finetunejob", self.name, "--timeout=20s")

    def set_suspend(self, *, suspend: bool) -> None:
        """Suspend or resume, as a user does it."""
        self.kubectl("patch", "finetunejob", self.name, "--type=merge", "--patch", json.dumps({"spec": {"suspend": suspend}}))

    def pods(self) -> list[str]:
        """Return the names of all pods that the run ever had, in order."""
        return [name for name in self._timeline.names(PODS, self.namespace) if name.startswith(f"{self.name}-")]

    def jobs(self) -> list[Object]:
        """Return the newest version of each of the run's Jobs, those that are gone too."""
        names = [name for name in self._timeline.names(JOBS, self.namespace) if name.startswith(f"{self.name}-")]
        return [self._timeline.history(JOBS, self.namespace, name)[-1].body for name in names]

    def exit_code_of(self, pod: str) -> int:
        """Return the exit code of one of the run's pods, which has ended."""
        return int(self._end_of(pod)["exitCode"])

    def checkpoint_step_of(self, pod: str) -> int:
        """Return which step's checkpoint an interrupted trainer said that it had published."""
        summary = decode_summary(self._end_of(pod)["message"])
        assert summary is not None
        assert summary.outcome == "interrupted", summary
        assert summary.checkpoint_step is not None, summary
        return summary.checkpoint_step

    def _end_of(self, pod: str) -> Object:
        """Return how a pod ended. It may be gone by now, and its end may come to be seen after that of its run."""
        seen = self._timeline.wait_for(PODS, self.namespace, pod, lambda body: trainer_state_of(body).get("terminated"), 10, "has ended")
        terminated: Object = trainer_state_of(seen.body)["terminated"]
        return terminated

    def log(self, pod: str) -> str:
        """Return the log of a pod that is still there."""
        return self.kubectl("logs", pod)

    def kubectl(self, *words: str) -> str:
        """Run kubectl in the run's namespace."""
        return self._runs.cluster.kubectl("--namespace", self.namespace, *words)

    def read_losses(self, body: Object) -> list[tuple[int, float]]:
        """Return step and loss of every training step that the published adapter's `metrics.jsonl` has."""
        root = body["status"]["artifacts"][0]["uri"].removeprefix("s3://")
        content: bytes = self.store.cat_file(f"{root}/metrics.jsonl")
        entries: list[dict[str, Any]] = [json.loads(line) for line in content.decode().splitlines()]
        return [(entry["step"], entry["loss"]) for entry in entries if "loss" in entry]

    @property
    def store(self) -> Any:
        """A file system over the cluster's store."""
        return connect(self._runs.cluster.object_store)


def must_not_end(body: Object, wanted: str = "") -> bool:
    """Return True, unless the run has ended otherwise than in the phase ``wanted``.

    :raises AssertionError: it has, so that nobody waits for what will never come.
    """
    phase = phase_of(body)
    if phase in {"Failed", "Succeeded"} - {wanted}:
        raise AssertionError(f"{body['metadata']['name']} is {phase} already: {condition_of(body, 'Succeeded')}")
    return True
