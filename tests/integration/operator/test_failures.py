"""The Job controller's real handling of the pod failure policy, for every exit code at once."""

import pytest

from finetune_api.exit_codes import OUTCOMES, ExitCode
from finetune_api.reasons import Reason
from tests.support.fake_node import Script
from tests.support.live_run import LiveRun, NewRun, Object, wait_until
from tests.support.world import build_summary

pytestmark = pytest.mark.cluster
PERMANENT = [code for code, outcome in OUTCOMES.items() if outcome.retry == "never" and code is not ExitCode.COMPLETED]
COUNTED = [code for code, outcome in OUTCOMES.items() if outcome.retry == "counted"]


def _summary(code: ExitCode) -> str:
    return build_summary("failed", OUTCOMES[code].reason, message=f"It left with {code.name}.")


def _ends(*codes: int) -> Script:
    words = {code: _summary(code) for code in ExitCode if code}
    return Script(ends=iter([(code, build_summary() if code == 0 else words.get(ExitCode(code), "")) for code in codes]))


def test_each_permanent_code_fails_the_run_at_once_and_each_other_uses_the_budget_up(new_run: NewRun) -> None:
    runs: dict[ExitCode, LiveRun] = {}
    for code in (*PERMANENT, *COUNTED):
        runs[code] = new_run(f"exit-{int(code)}")
        # A budget that permanent codes don't touch, and that the first crash uses up.
        runs[code].apply({"backoffLimit": 3 if code in PERMANENT else 0}, _ends(code))
    for code, run in runs.items():
        status = run.wait_phase("Failed")
        assert run.condition()["reason"] == OUTCOMES[code].reason
        assert f"It left with {code.name}." in run.condition()["message"]
        assert status["restarts"] == 0
        assert len(run.pods()) == 1
        assert ("Given up after 0 retries" in run.condition()["message"]) == (code in COUNTED)


def test_what_follows_a_pod_that_ended_too_early(new_run: NewRun) -> None:
    """Four runs at once, since the Job controller waits ten seconds before each next pod: interrupted, disrupted, drained, crashed."""
    interrupted, disrupted, drained, crashed = new_run("interrupted"), new_run("disrupted"), new_run("drained"), new_run("crashed")
    interrupted.apply({"backoffLimit": 0}, _ends(75))
    disrupted.apply({"backoffLimit": 0})
    drained.apply(
        {"backoffLimit": 0}, Script(interrupted=build_summary("interrupted", Reason.INTERRUPTED, checkpoint_step=4), stop_seconds=2)
    )
    crashed.apply({"backoffLimit": 1}, _ends(1, 0))

    first = disrupted.wait_pod()
    disrupted.node.end(disrupted.namespace, first["metadata"]["name"], 137, disrupted=True)
    drained.wait_phase("Running")
    drained_pod = drained.wait_pod()
    evict(drained, drained_pod)
    # By its Event, since the condition says it only until the next pod is there.
    assert interrupted.wait_event(Reason.INTERRUPTED)["message"].endswith("The next pod resumes from the last checkpoint.")
    assert "was disrupted: preempting" in disrupted.wait_event(Reason.INTERRUPTED)["message"]
    assert crashed.wait_event(Reason.RETRYING)["message"].endswith("Retry 1 of 1 follows.")

    wait_until(lambda: all(pod["metadata"]["uid"] != drained_pod["metadata"]["uid"] for pod in drained.pods()), "the drained pod has gone")

    for run in (interrupted, disrupted, drained):
        run.wait_phase("Running", 60)
        run.end_pod(0, build_summary())
    for run in (interrupted, disrupted, drained, crashed):
        status = run.wait_phase("Succeeded", 60)
        assert status["restarts"] == 1
    assert [run.jobs()[0]["status"].get("failed", 0) for run in (interrupted, disrupted, drained, crashed)] == [0, 0, 0, 1]
    assert [run.status.get("failures", 0) for run in (interrupted, disrupted, drained, crashed)] == [0, 0, 0, 1]


def evict(run: LiveRun, pod: Object) -> None:
    """Ask for a pod's eviction, as `kubectl drain` does for each pod of a node."""
    name = {"name": pod["metadata"]["name"], "namespace": run.namespace}
    path = f"/api/v1/namespaces/{run.namespace}/pods/{name['name']}/eviction"
    run.client.request("POST", path, {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": name})
