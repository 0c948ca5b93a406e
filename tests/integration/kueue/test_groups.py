"""Runs of several pods in a queue: quota for all of them or for none, one eviction for all, and one way back."""

from collections.abc import Callable
from typing import Any

import pytest

from finetune_api.names import INDEX_LABEL
from finetune_api.reasons import Reason
from finetune_devcluster import Cluster
from tests.support.audit import read_writes
from tests.support.fake_node import Script
from tests.support.kueue_process import KueueProcess
from tests.support.kueue_stand_in import KueueStandIn
from tests.support.live_run import LiveRun, wait_until
from tests.support.operator_process import USER
from tests.support.world import build_summary

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300, func_only=True)]

NewRun = Callable[[str], LiveRun]
Kueue = KueueProcess | KueueStandIn
SECONDS = 60.0
"""Longest wait: Kueue itself looks for room again within seconds, and evicts when the pods have gone."""


def _spec(priority: str = "low", nodes: int = 2, **more: Any) -> dict[str, Any]:
    return {"resources": {"gpus": 1, "nodes": nodes}, "scheduling": {"queueName": "team", "workloadPriorityClassName": priority}, **more}


def _workload_of(run: LiveRun) -> dict[str, Any]:
    name = wait_until(lambda: run.status.get("queue", {}).get("workload"), f"{run.name} knows its Workload", SECONDS, run.explain)
    path = f"/apis/kueue.x-k8s.io/v1beta2/namespaces/{run.namespace}/workloads/{name}"
    body: dict[str, Any] = run.client.request("GET", path)
    return body


def _alive(run: LiveRun) -> list[dict[str, Any]]:
    return [pod for pod in run.pods() if pod["status"]["phase"] in ("Pending", "Running")]


def _wait_for_all(run: LiveRun, count: int = 2) -> list[dict[str, Any]]:
    """Wait until so many pods of the run are running, and return them by their number."""

    def look() -> list[dict[str, Any]] | None:
        pods = [pod for pod in run.pods() if pod["status"]["phase"] == "Running" and "deletionTimestamp" not in pod["metadata"]]
        return sorted(pods, key=lambda pod: str(pod["metadata"]["labels"][INDEX_LABEL])) if len(pods) == count else None

    return wait_until(look, f"{run.name} has {count} running pods", SECONDS, run.explain)


def _complete(run: LiveRun) -> None:
    for pod in _wait_for_all(run):
        run.node.end(run.namespace, pod["metadata"]["name"], 0, build_summary())


def test_a_group_gets_quota_for_all_of_its_pods_or_has_none(
    kueue: Kueue, new_run: NewRun, queue_namespace: str, queue_plane: Cluster
) -> None:
    kueue.add_queue(queue_namespace, "team", gpus=3)
    since = queue_plane.audit_log.stat().st_size
    first, second = new_run("first"), new_run("second")
    first.apply(_spec())
    first.wait_phase("Running", SECONDS)
    assert [pod["spec"]["nodeSelector"] for pod in _wait_for_all(first)] == [{"kubernetes.io/hostname": "fake-node"}] * 2
    assert [each["count"] for each in _workload_of(first)["spec"]["podSets"]] == [2]
    second.apply(_spec())
    second.wait_reason(Reason.QUEUED, seconds=SECONDS)
    wait_until(lambda: "insufficient" in second.condition()["message"], "the queue's own words", SECONDS, second.explain)
    assert second.pods() == [], "one GPU is free, and a part of a group is of no use"
    _complete(first)
    first.wait_phase("Succeeded", SECONDS)
    second.wait_phase("Running", SECONDS)
    _complete(second)
    assert second.wait_phase("Succeeded", SECONDS)["restarts"] == 0
    writes = read_writes(queue_plane.audit_log, user=USER, namespace=queue_namespace, since=since)
    assert [write for write in writes if write.resource == "jobs" and write.verb != "create"] == []


def test_a_preempted_group_leaves_as_one_and_resumes_as_one(kueue: Kueue, new_run: NewRun, queue_namespace: str) -> None:
    kueue.add_queue(queue_namespace, "team", gpus=2)
    low, high = new_run("low"), new_run("high")
    script = Script(interrupted=build_summary("interrupted", Reason.INTERRUPTED, checkpoint_step=4), stop_seconds=2)
    low.apply(_spec(backoffLimit=0), script)
    low.wait_phase("Running", SECONDS)
    _wait_for_all(low)
    high.apply(_spec("high", nodes=1))
    high.wait_phase("Running", SECONDS)
    wait_until(lambda: low.status.get("interruptions") == 1, "the group was interrupted once", SECONDS, low.explain)
    low.wait_phase("Queued", SECONDS)
    assert _alive(low) == [], "one GPU is free, and the group waits for two"
    spent = low.status["gpuSeconds"]
    high.end_pod(0, build_summary())
    high.wait_phase("Succeeded", SECONDS)
    low.wait_phase("Running", SECONDS)
    _complete(low)
    status = low.wait_phase("Succeeded", SECONDS)
    assert (status["restarts"], status["interruptions"], status.get("failures", 0)) == (1, 1, 0)
    assert status["gpuSeconds"] >= spent
    low.wait_event("Completed")  # the last of them
    assert [event["reason"] for event in low.events()].count("Preempted") == 1


def test_a_user_s_suspension_takes_the_whole_group_out_of_the_queue(kueue: Kueue, new_run: NewRun, queue_namespace: str) -> None:
    kueue.add_queue(queue_namespace, "team", gpus=2)
    run, other = new_run("run"), new_run("other")
    run.apply(_spec(), Script(interrupted=build_summary("interrupted", Reason.INTERRUPTED, checkpoint_step=4)))
    run.wait_phase("Running", SECONDS)
    _wait_for_all(run)
    run.patch({"suspend": True})
    run.wait_phase("Suspended", SECONDS)
    other.apply(_spec())
    other.wait_phase("Running", SECONDS)
    assert _alive(run) == []
    run.patch({"suspend": False})
    run.wait_phase("Queued", SECONDS)
    _complete(other)
    run.wait_phase("Running", SECONDS)
    _complete(run)
    run.wait_phase("Succeeded", SECONDS)
