"""Two GPUs, more who want them, and one run that is preempted again and again: it loses no step, no retry, and ends as if undisturbed.

The GPUs are simulated, the preemption is the scheduler's own: a pod of higher priority comes, the trainer gets SIGTERM, writes its
checkpoint and goes; when the other is gone, the run goes on. Short in every test run, and long by `make drill`, where some of the pods are
killed outright.
"""

import json
import os
import random
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from finetune_api.exit_codes import ExitCode
from finetune_api.names import ENV_POD_NAME
from tests.support.manifests import Manifest
from tests.support.pod_security import UNPRIVILEGED
from tests.support.runs import START_SECONDS, Run, Runs
from tests.support.timeline import PODS, condition_of, step_of, trainer_state_of

pytestmark = [pytest.mark.node, pytest.mark.timeout(3600, func_only=True)]

SEED = 20
EVERY_STEPS = 100
"""Steps between two checkpoints: what a kill may cost."""
LONGEST_PAUSE = 3.0
"""Seconds from a session's first step to the next preemption, at the most."""
KILLED_EVERY = 5
"""Of the long form, each fifth one is a kill."""


@dataclass(frozen=True)
class Disturbance:
    """One preemption, as it was seen."""

    number: int
    how: str
    reached: int
    """Last step that the pod was seen at: exact where it said so itself, a lower bound where it was killed."""
    resumed_from: int
    away_seconds: float
    """From the pod's end to the start of the next one's trainer."""
    attempt: int


@pytest.fixture(scope="module", autouse=True)
def two_gpus(runs: Runs) -> Iterator[None]:
    """Two GPUs that the node only claims to have, an operator whose trainers do without, and two priorities."""
    runs.cluster.advertise_gpus(2)
    runs.release.install(development__simulatedGpus="true")
    classes = [
        {"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": f"e2e-{name}"}, "value": value}
        for name, value in (("low", 10), ("high", 1000))
    ]
    runs.cluster.kubectl("apply", "--filename=-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": classes}))
    yield
    runs.cluster.kubectl("delete", "priorityclass", "e2e-low", "e2e-high")
    runs.release.install()
    runs.cluster.advertise_gpus(0)


class Rival:
    """A pod of high priority that wants one GPU, for as long as it is there."""

    def __init__(self, runs: Runs, namespace: str, name: str, image: str) -> None:
        self._runs, self._namespace, self._name, self._image = runs, namespace, name, image

    def come(self) -> None:
        """Create it, and wait until it has its GPU."""
        container = {
            "name": "rival",
            "image": self._image,
            "imagePullPolicy": "Never",
            "command": ["sleep", "infinity"],
            "resources": {"limits": {"nvidia.com/gpu": "1"}, "requests": {"cpu": "10m"}},
            "securityContext": UNPRIVILEGED,
        }
        spec = {"priorityClassName": "e2e-high", "terminationGracePeriodSeconds": 0, "containers": [container]}
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": self._name, "namespace": self._namespace}, "spec": spec}
        self._runs.cluster.kubectl("create", "--filename=-", stdin=json.dumps(pod))
        self._runs.timeline.wait_for(
            PODS, self._namespace, self._name, lambda body: body["status"]["phase"] == "Running", START_SECONDS, "the rival has its GPU"
        )

    def go(self) -> None:
        """Delete it."""
        self._runs.cluster.kubectl("--namespace", self._namespace, "delete", "pod", self._name, "--grace-period=0", "--force")


def _wait_training(runs: Runs, run: Run, session: int) -> str:
    """Wait until the run's pod number ``session`` trains, and return its name."""

    def look() -> str | None:
        pods = run.pods()
        return pods[session] if len(pods) > session and '"step' in run.log(pods[session]) and "tokens/s" in run.log(pods[session]) else None

    runs.timeline.wait(lambda: len(run.pods()) > session, START_SECONDS, f"{run.name} has pod number {session + 1}")
    runs.timeline.wait_for(
        PODS, run.namespace, run.pods()[session], lambda body: "running" in trainer_state_of(body), START_SECONDS, "its trainer runs"
    )
    runs.timeline.wait(look, START_SECONDS, f"{run.name} trains in pod number {session + 1}")
    return run.pods()[session]


def _kill(pod: str) -> None:
    """Kill a trainer's process as a kernel or a power cut would: without a word of warning."""
    mark = f"{ENV_POD_NAME}={pod}".encode()
    for folder in Path("/proc").iterdir():
        if not folder.name.isdecimal():
            continue
        try:
            if mark in (folder / "environ").read_bytes().split(b"\0"):
                os.kill(int(folder.name), signal.SIGKILL)
        except (OSError, ProcessLookupError):
            continue


def _resumed_from(run: Run, pod: str) -> int:
    """Return the step of the checkpoint that a pod's log says it goes on from; 0 where it began anew."""
    _, found, rest = run.log(pod).partition("going on from the checkpoint of step ")
    return int(rest.split(" ", 1)[0]) if found else 0


def test_a_run_that_is_preempted_again_and_again_ends_as_if_undisturbed(
    runs: Runs, namespace: str, images: dict[str, str], pytestconfig: pytest.Config
) -> None:
    full: bool = pytestconfig.getoption("--drill-full")
    times, steps = (20, 3600) if full else (2, 800)
    dice = random.Random(SEED)  # noqa: S311  # chooses moments, guards nothing
    kills = {number for number in range(1, times + 1) if full and number % KILLED_EVERY == 0}
    training = {"training": {"maxSteps": steps, "checkpoint": {"everySteps": EVERY_STEPS}}}
    calm = runs.apply(namespace, "calm", training)
    Rival(runs, namespace, "neighbour", images["trainer"]).come()  # the other GPU's holder, whom nobody can preempt
    low = {"resources": {"gpus": 1}, "scheduling": {"priorityClassName": "e2e-low"}, "backoffLimit": len(kills)}
    run = runs.apply(namespace, "drilled", {**training, **low})
    seen: list[Disturbance] = []
    pod = _wait_training(runs, run, 0)
    for number in range(1, times + 1):
        time.sleep(dice.uniform(0, LONGEST_PAUSE))
        before = step_of(run.get())
        rival = Rival(runs, namespace, f"rival-{number}", images["trainer"])
        if number in kills:
            _kill(pod)
        else:
            rival.come()
        ended = runs.timeline.wait_for(
            PODS, namespace, pod, lambda body: "terminated" in trainer_state_of(body), START_SECONDS, "the trainer has gone"
        )
        assert run.exit_code_of(pod) == (137 if number in kills else ExitCode.INTERRUPTED)
        reached = before if number in kills else run.checkpoint_step_of(pod)
        if number not in kills:
            rival.go()
        following = _wait_training(runs, run, number)
        started = runs.timeline.wait_for(PODS, namespace, following, lambda body: "running" in trainer_state_of(body), 10, "it runs")
        resumed = _resumed_from(run, following)
        how = "killed" if number in kills else "preempted"
        seen.append(Disturbance(number, how, reached, resumed, started.at - ended.at, run.get()["status"]["attempt"]))
        if number in kills:
            assert reached - resumed <= EVERY_STEPS, f"a kill cost more than a checkpoint's interval: {seen[-1]}"
        else:
            assert resumed == reached, f"a preemption cost steps: {seen[-1]}"
        pod = following
    disturbed = run.wait_success(3000)
    undisturbed = calm.wait_success(3000)
    curve, reference = run.read_losses(disturbed), calm.read_losses(undisturbed)
    worst = max(abs(one[1] - other[1]) for one, other in zip(curve, reference, strict=True))
    status = disturbed["status"]
    if report := pytestconfig.getoption("--drill-report"):
        report.write_text(_render(seen, steps, worst, status))
    runs.notes.append(
        f"preempted {times} times in {steps} steps: steps {[each.reached for each in seen]}, away "
        f"{min(each.away_seconds for each in seen):.1f} to {max(each.away_seconds for each in seen):.1f} s, loss curve off by {worst:g}"
    )
    assert [step for step, _ in curve] == list(range(1, steps + 1)), "every step is counted once"
    assert worst == 0, "the loss curve is that of an undisturbed run"
    assert (status["restarts"], status["interruptions"], status.get("failures", 0)) == (times, times - len(kills), len(kills))
    assert status["attempt"] >= (times - len(kills)) // 2 - len(kills), "each second interruption ends in a new Job"
    reasons = {condition_of(body, "Succeeded").get("reason") for body in run.history()}
    assert reasons >= {"Training", "Interrupted", "Completed"}


def _render(seen: list[Disturbance], steps: int, worst: float, status: Manifest) -> str:
    rows = "\n".join(
        f"| {each.number} | {each.how} | {each.reached} | {each.resumed_from} | {max(0, each.reached - each.resumed_from)} "
        f"| {each.away_seconds:.1f} | {each.attempt} |"
        for each in seen
    )
    polite = [each for each in seen if each.how == "preempted"]
    again = sum(each.reached - each.resumed_from for each in polite)
    return f"""# Drill: one run, preempted {len(seen)} times

Written by `make drill` on a real node with two simulated GPUs. One run of {steps} steps (a tiny Llama on the CPU, a checkpoint every
{EVERY_STEPS} steps) is disturbed {len(seen)} times, at moments drawn with the seed {SEED}: {len(polite)} times by a pod of higher
priority that takes its GPU (the scheduler's own preemption), {len(seen) - len(polite)} times by SIGKILL.

| no. | what happened | at step | went on from step | steps done twice | seconds without a trainer | attempt |
| --- | --- | --- | --- | --- | --- | --- |
{rows}

- Steps lost by {len(polite)} preemptions: {again}. A kill may cost up to {EVERY_STEPS} steps, which are done again; the step named for
  it is the last one reported, so it is a lower bound.
- The loss of each of the {steps} steps, against that of an undisturbed run: largest difference {worst:g}.
- Status at the end: {status["restarts"]} restarts, {status["interruptions"]} interruptions, {status.get("failures", 0)} failures of a
  `backoffLimit` of {len(seen) - len(polite)}, attempt {status["attempt"]}.
- "Seconds without a trainer" are from the end of one pod's trainer to the start of the next one's. The Job controller waits 10 s after a
  Job's first failed pod and twice as long after each further one; every second interruption therefore ends in a new Job, which does not
  wait.
"""
