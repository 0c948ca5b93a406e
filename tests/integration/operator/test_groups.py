"""Runs of several pods, with the Job controller's real handling of their ends."""

import pytest

from finetune_api.exit_codes import ExitCode
from tests.support.group_runs import GROUP, end, names, wait_group
from tests.support.live_run import NewRun, wait_until

pytestmark = pytest.mark.cluster


def test_pods_of_a_group_are_named_and_found_by_a_service_of_the_run(new_run: NewRun) -> None:
    run = new_run("g" * 63)  # cut where a pod's name would be too long for a host
    run.apply(GROUP)
    group = wait_group(run, set())
    (job,) = run.jobs()
    assert (job["spec"]["completionMode"], job["spec"]["completions"], job["spec"]["parallelism"]) == ("Indexed", 2, 2)
    assert [pod["spec"]["hostname"] for _, pod in sorted(group.items())] == [f"{job['metadata']['name']}-{index}" for index in (0, 1)]
    (subdomain,) = {pod["spec"]["subdomain"] for pod in group.values()}
    service = run.client.request("GET", f"/api/v1/namespaces/{run.namespace}/services/{subdomain}")
    assert service["spec"]["clusterIP"] == "None"
    assert service["metadata"]["ownerReferences"][0]["uid"] == run.get()["metadata"]["uid"]
    assert run.wait_phase("Running")["gpus"] == 2


def test_crash_of_one_and_interruption_of_one_restart_the_group_once_each(new_run: NewRun) -> None:
    """The budget is used by one for the crash, whatever the other pod ended by, and not at all for the interruption."""
    run = new_run("restarted")
    run.apply({**GROUP, "backoffLimit": 1})
    first = wait_group(run, set())
    run.wait_phase("Running")
    end(run, first[1], 137)
    end(run, first[0], ExitCode.PEER_LOST)
    second = wait_group(run, names(first))
    status = wait_until(lambda: found if (found := run.status).get("restarts") == 1 else None, "one restart", 30, run.explain)
    assert (status["failures"], status.get("interruptions", 0)) == (1, 0)
    end(run, second[0], ExitCode.INTERRUPTED, disrupted=True)
    end(run, second[1], ExitCode.INTERRUPTED)
    third = wait_group(run, names(first) | names(second))
    end(run, third[1], 0)
    end(run, third[0], 0)
    status = run.wait_phase("Succeeded", 60)
    assert (status["restarts"], status["failures"], status["interruptions"]) == (2, 1, 1)
    assert status["artifacts"]


def test_group_fails_when_the_budget_is_used_up(new_run: NewRun) -> None:
    run = new_run("given-up")
    run.apply({**GROUP, "backoffLimit": 0})
    group = wait_group(run, set())
    end(run, group[1], ExitCode.CRASHED)
    end(run, group[0], ExitCode.PEER_LOST)
    status = run.wait_phase("Failed", 60)
    assert run.condition()["reason"] == "TrainerCrashed"
    assert (status["failures"], status["restarts"]) == (1, 0)
