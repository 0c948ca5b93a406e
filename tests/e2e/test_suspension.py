"""A run that its user stops in the middle, and that ends as if it had not been stopped."""

import time

import pytest

from finetune_api.exit_codes import ExitCode
from tests.support.runs import Runs
from tests.support.timeline import condition_of, step_of

pytestmark = pytest.mark.node

STEPS = 400


def test_a_suspended_run_goes_on_where_it_stopped(runs: Runs, namespace: str) -> None:
    run = runs.apply(namespace, "pause", {"training": {"maxSteps": STEPS}})
    run.wait_first_step()
    asked = time.monotonic()
    run.set_suspend(suspend=True)
    suspended = run.wait_phase("Suspended", 60)
    first = run.pods()[0]
    assert run.exit_code_of(first) == ExitCode.INTERRUPTED
    assert condition_of(suspended.body, "Suspended")["status"] == "True"
    step = run.checkpoint_step_of(first)
    assert 1 <= step < STEPS
    run.set_suspend(suspend=False)
    ended = run.wait_success()
    assert {body["status"]["progress"]["totalSteps"] for body in run.history() if step_of(body)} == {STEPS}
    assert ended["status"]["restarts"] == 1
    second = run.pods()[-1]
    assert f"going on from the checkpoint of step {step} of {STEPS}" in run.log(second)
    assert [at for at, _ in run.read_losses(ended)] == list(range(1, STEPS + 1))
    steps = [step_of(body) for body in run.history()]
    assert steps == sorted(steps)
    runs.notes.append(f"suspended at step {step} of {STEPS}; {suspended.at - asked:.1f} s from the request to Suspended")
