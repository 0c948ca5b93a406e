"""Two real pods train one run together. One is killed in the midst; both go on from the last checkpoint, and each step counts once."""

import os
import signal
from pathlib import Path

import pytest

from finetune_api.exit_codes import ExitCode
from finetune_api.names import ENV_POD_NAME, INDEX_LABEL
from tests.support.runs import START_SECONDS, Run, Runs
from tests.support.timeline import PODS, step_of

pytestmark = pytest.mark.node

STEPS = 600
"""Enough for reports, which come every five seconds, to be seen on a machine that does nothing else."""
EVERY_STEPS = 20


def pods_by_number(runs: Runs, run: Run) -> dict[int, list[str]]:
    """The names of all pods that the run ever had, by their number, in order."""
    found: dict[int, list[str]] = {}
    for name in run.pods():
        body = runs.timeline.history(PODS, run.namespace, name)[-1].body
        found.setdefault(int(body["metadata"]["labels"][INDEX_LABEL]), []).append(name)
    return found


def kill(pod: str) -> None:
    """Kill the trainer of a pod outright. The node's processes are this machine's own."""
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            try:
                environment = (folder / "environ").read_bytes().split(b"\0")
            except OSError:
                continue
            if f"{ENV_POD_NAME}={pod}".encode() in environment:
                os.kill(int(folder.name), signal.SIGKILL)


def test_two_pods_train_together_and_get_over_the_death_of_one(runs: Runs, namespace: str) -> None:
    run = runs.apply(
        namespace,
        "pair",
        {
            "resources": {"nodes": 2, "gpus": 0},
            "training": {"maxSteps": STEPS, "checkpoint": {"everySteps": EVERY_STEPS}},
            "backoffLimit": 1,
        },
    )
    run.wait_step(EVERY_STEPS + 1)
    second = pods_by_number(runs, run)[1][0]
    kill(second)
    again = run.wait(lambda body: body["status"].get("restarts") == 1 and step_of(body) > EVERY_STEPS, START_SECONDS, "trains again")
    assert again.body["status"]["failures"] == 1
    ended = run.wait_success()
    status = ended["status"]
    assert (status["restarts"], status["failures"], status.get("interruptions", 0)) == (1, 1, 0)
    assert [at for at, _ in run.read_losses(ended)] == list(range(1, STEPS + 1))
    generations = pods_by_number(runs, run)
    assert [len(generations[number]) for number in (0, 1)] == [2, 2]
    assert run.exit_code_of(second) == 128 + signal.SIGKILL
    assert run.exit_code_of(generations[0][0]) == ExitCode.PEER_LOST
    assert "all 2 processes have met" in run.log(generations[0][1])
