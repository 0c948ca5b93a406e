"""A node that is lost for good: its pod would stay terminating for ever, and its Job wait for it."""

import pytest

from finetune_operator.objects import LOST_SECONDS
from tests.support.live_run import NewRun, wait_until
from tests.support.world import build_summary

pytestmark = pytest.mark.cluster


def test_a_run_gets_over_a_node_that_is_lost_for_good(new_run: NewRun) -> None:
    run = new_run("stranded")
    run.apply({"scheduling": {"terminationGracePeriodSeconds": 1}, "backoffLimit": 0})
    lost = run.wait_pod()
    (job,) = run.jobs()
    run.wait_phase("Running")
    run.node.dead_to.add((run.namespace, run.name))
    # As the taint manager does it, five minutes after the node fell silent.
    run.client.request("DELETE", f"/api/v1/namespaces/{run.namespace}/pods/{lost['metadata']['name']}")
    wait_until(
        lambda: any(each["metadata"]["uid"] != job["metadata"]["uid"] for each in run.jobs()),
        "the run has a new Job",
        LOST_SECONDS + 60,
        run.explain,
    )
    run.node.dead_to.clear()
    wait_until(
        lambda: any(pod["metadata"]["uid"] != lost["metadata"]["uid"] and pod["status"].get("phase") == "Running" for pod in run.pods()),
        "its next pod runs",
        explain=run.explain,
    )
    run.wait_phase("Running")
    run.end_pod(0, build_summary())
    status = run.wait_phase("Succeeded")
    assert (status["attempt"], status["restarts"], status["interruptions"]) == (1, 1, 1)
    assert status.get("failures", 0) == 0
