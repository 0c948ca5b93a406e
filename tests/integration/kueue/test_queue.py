"""Runs in a queue, from waiting to preemption and back, on a real API server."""

import time
import urllib.request
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from finetune_api.progress import Metrics
from finetune_api.reasons import Reason
from finetune_devcluster import Cluster
from tests.integration.kueue.conftest import REAL
from tests.support.audit import read_writes
from tests.support.fake_node import FakeNode, Script
from tests.support.kueue_process import KueueProcess
from tests.support.kueue_stand_in import KueueStandIn
from tests.support.live_run import LiveRun, wait_until
from tests.support.live_sweep import LiveSweep
from tests.support.operator_process import USER, OperatorProcess
from tests.support.replicas import install_templates
from tests.support.world import build_summary

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300, func_only=True)]

NewRun = Callable[[str], LiveRun]
Kueue = KueueProcess | KueueStandIn
QUEUED: dict[str, Any] = {"scheduling": {"queueName": "team"}}
SECONDS = 60.0
"""Longest wait: Kueue itself looks for room again within seconds, and evicts when the pod has gone."""


def _ranked(priority: str) -> dict[str, Any]:
    return {"scheduling": {"queueName": "team", "workloadPriorityClassName": priority}}


def _interrupted(step: int = 4) -> Script:
    return Script(interrupted=build_summary("interrupted", Reason.INTERRUPTED, checkpoint_step=step), stop_seconds=1)


def _workloads(run: LiveRun) -> list[dict[str, Any]]:
    path = f"/apis/kueue.x-k8s.io/v1beta2/namespaces/{run.namespace}/workloads"
    items: list[dict[str, Any]] = run.client.request("GET", path)["items"]
    jobs = {job["metadata"]["uid"] for job in run.jobs()}
    return [each for each in items if each["metadata"]["ownerReferences"][0]["uid"] in jobs]


def _count_gpu_seconds(operator: OperatorProcess, namespace: str) -> dict[str, float]:
    """Return what the operator has counted in a namespace, by queue."""
    with urllib.request.urlopen(f"http://127.0.0.1:{operator.health_port}/metrics", timeout=10) as answer:
        families = list(text_string_to_metric_families(answer.read().decode()))
    samples = [sample for family in families for sample in family.samples if sample.name == "finetune_gpu_seconds_total"]
    return {sample.labels["queue"]: sample.value for sample in samples if sample.labels["namespace"] == namespace}


def test_a_run_waits_is_admitted_and_ends(kueue: Kueue, new_run: NewRun, queue_namespace: str, queue_plane: Cluster) -> None:
    kueue.add_queue(queue_namespace, "team", gpus=1)
    since = queue_plane.audit_log.stat().st_size
    first, second = new_run("first"), new_run("second")
    first.apply(QUEUED)
    first.wait_phase("Running", SECONDS)
    second.apply(QUEUED)
    waiting = second.wait_reason(Reason.QUEUED, seconds=SECONDS)
    wait_until(lambda: "insufficient" in second.condition()["message"], "the queue's own words", SECONDS, second.explain)
    assert "Waits in queue team" in waiting["message"]
    assert second.status["phase"] == "Queued"
    assert second.condition("Admitted")["status"] == "False"
    waits_since = datetime.fromisoformat(second.status["queuedSince"])
    wait_until(lambda: datetime.now(UTC) - waits_since > timedelta(seconds=1), "it has waited for a second", SECONDS)
    first.end_pod(0, build_summary())
    second.wait_phase("Running", SECONDS)
    queue = wait_until(
        lambda: found if (found := second.status["queue"]).get("clusterQueue") else None, "its ClusterQueue is named", SECONDS
    )
    (workload,) = _workloads(second)
    assert (queue["name"], queue["workload"]) == ("team", workload["metadata"]["name"])
    assert second.condition("Admitted")["status"] == "True"
    assert second.status["queuedSeconds"] >= 1
    (job,) = second.jobs()
    assert job["spec"]["template"]["spec"]["nodeSelector"] == {"kubernetes.io/hostname": "fake-node"}
    second.end_pod(0, build_summary())
    assert second.wait_phase("Succeeded", SECONDS)["runningSeconds"] >= 0
    writes = read_writes(queue_plane.audit_log, user=USER, namespace=queue_namespace, since=since)
    ours = [write for write in writes if write.resource == "jobs" and write.verb != "create"]
    assert ours == [], "the operator wrote to a Job that is the queue's"


def test_a_preempted_run_says_so_waits_and_resumes(kueue: Kueue, new_run: NewRun, queue_namespace: str) -> None:
    kueue.add_queue(queue_namespace, "team", gpus=1)
    low, high = new_run("low"), new_run("high")
    low.apply({**_ranked("low"), "backoffLimit": 0}, _interrupted())
    low.wait_phase("Running", SECONDS)
    high.apply(_ranked("high"))
    high.wait_phase("Running", SECONDS)
    message = low.wait_reason(Reason.PREEMPTED, seconds=SECONDS)["message"]
    assert "InClusterQueue" in message
    low.wait_phase("Queued", SECONDS)
    assert low.condition("Admitted")["reason"] == Reason.PREEMPTED
    high.end_pod(0, build_summary())
    low.wait_phase("Running", SECONDS)
    low.end_pod(0, build_summary())
    status = low.wait_phase("Succeeded", SECONDS)
    assert (status["restarts"], status["interruptions"], status.get("failures", 0)) == (1, 1, 0)
    assert low.wait_event("Preempted")["message"]
    assert low.wait_event("Completed")["message"]


def test_a_user_s_suspension_frees_the_quota_and_keeps_the_job(kueue: Kueue, new_run: NewRun, queue_namespace: str) -> None:
    kueue.add_queue(queue_namespace, "team", gpus=1)
    run, other = new_run("run"), new_run("other")
    run.apply(QUEUED, _interrupted())
    run.wait_phase("Running", SECONDS)
    (job,) = run.jobs()
    run.patch({"suspend": True})
    run.wait_phase("Suspended", SECONDS)
    other.apply(QUEUED)
    other.wait_phase("Running", SECONDS)
    time.sleep(1)  # nobody starts the suspended one again
    assert run.status["phase"] == "Suspended"
    (workload,) = _workloads(run)
    assert workload["spec"]["active"] is False
    run.patch({"suspend": False})
    wait_until(lambda: run.status["phase"] == "Queued", "it is in the queue again", SECONDS, run.explain)
    other.end_pod(0, build_summary())
    run.wait_phase("Running", SECONDS)
    run.end_pod(0, build_summary())
    run.wait_phase("Succeeded", SECONDS)
    assert [each["metadata"]["uid"] for each in run.jobs()] == [job["metadata"]["uid"]]


def test_a_run_moved_to_another_queue_is_followed_there_and_its_time_is_the_queue_s_that_it_was_in(
    kueue: Kueue, new_run: NewRun, queue_namespace: str, operator: OperatorProcess
) -> None:
    """By a person, who changes its Job's label while it is stopped; Kueue follows that, after an eviction, with a new Workload only."""
    kueue.add_queue(queue_namespace, "team", gpus=1)
    kueue.add_queue(queue_namespace, "spare", gpus=1)
    low, high = new_run("low"), new_run("high")
    low.apply(_ranked("low"), _interrupted())
    low.wait_phase("Running", SECONDS)
    time.sleep(1.1)  # times of containers are whole seconds: there must be one to account for
    high.apply(_ranked("high"))
    high.wait_phase("Running", SECONDS)
    low.wait_phase("Queued", SECONDS)
    wait_until(lambda: low.status.get("interruptions") == 1, "the end of its pod is counted", SECONDS, low.explain)
    spent = low.status["gpuSeconds"]
    (job,) = low.jobs()
    path = f"/apis/batch/v1/namespaces/{queue_namespace}/jobs/{job['metadata']['name']}"
    low.client.request("PATCH", path, {"metadata": {"labels": {"kueue.x-k8s.io/queue-name": "spare"}}}, "application/merge-patch+json")
    (workload,) = _workloads(low)
    low.client.request("DELETE", f"/apis/kueue.x-k8s.io/v1beta2/namespaces/{queue_namespace}/workloads/{workload['metadata']['name']}")
    low.wait_phase("Running", SECONDS)
    wait_until(lambda: low.status["queue"]["name"] == "spare", "the queue that it is in is named", SECONDS, low.explain)
    low.end_pod(0, build_summary())
    status = low.wait_phase("Succeeded", SECONDS)
    assert spent > 0
    told = {"team": spent, "spare": status["gpuSeconds"] - spent}
    wait_until(
        lambda: _count_gpu_seconds(operator, queue_namespace) == {queue: each for queue, each in told.items() if each}, "it is counted"
    )
    high.end_pod(0, build_summary())


def test_a_deactivated_run_says_how_to_go_on(kueue: Kueue, new_run: NewRun, queue_namespace: str) -> None:
    kueue.add_queue(queue_namespace, "team", gpus=1)
    run = new_run("run")
    run.apply(QUEUED, _interrupted())
    run.wait_phase("Running", SECONDS)
    (workload,) = _workloads(run)
    path = f"/apis/kueue.x-k8s.io/v1beta2/namespaces/{run.namespace}/workloads/{workload['metadata']['name']}"
    run.client.request("PATCH", path, {"spec": {"active": False}}, "application/merge-patch+json")
    message = run.wait_reason(Reason.DEACTIVATED, seconds=SECONDS)["message"]
    assert "spec.suspend" in message
    assert run.condition("Stalled")["status"] == "True"
    run.patch({"suspend": True})
    run.wait_phase("Suspended", SECONDS)
    run.patch({"suspend": False})
    run.wait_phase("Running", SECONDS)


def test_a_queue_that_is_not_there_is_said(kueue: Kueue, new_run: NewRun, queue_namespace: str) -> None:
    run = new_run("run")
    run.apply(QUEUED)
    message = run.wait_reason(Reason.INADMISSIBLE, seconds=SECONDS)["message"]
    assert "LocalQueue team doesn't exist" in message
    assert run.condition("Stalled")["status"] == "True"
    kueue.add_queue(queue_namespace, "team", gpus=1)
    run.wait_phase("Running", SECONDS)


def test_preempted_twice_the_run_goes_on_in_a_new_job(kueue: Kueue, new_run: NewRun, queue_namespace: str) -> None:
    kueue.add_queue(queue_namespace, "team", gpus=1)
    low = new_run("low")
    low.apply({**_ranked("low"), "backoffLimit": 0}, _interrupted())
    for number in (1, 2):
        low.wait_phase("Running", SECONDS)
        high = new_run(f"high-{number}")
        high.apply(_ranked("high"))
        high.wait_phase("Running", SECONDS)
        wait_until(lambda number=number: low.status.get("interruptions") == number, "it was interrupted", SECONDS, low.explain)
        high.end_pod(0, build_summary())
        high.wait_phase("Succeeded", SECONDS)
    low.wait_phase("Running", SECONDS)
    low.end_pod(0, build_summary())
    status = low.wait_phase("Succeeded", SECONDS)
    assert (status["attempt"], status["interruptions"], status["restarts"]) == (1, 2, 2)


def test_trials_of_a_sweep_wait_for_quota_give_way_and_come_back(
    kueue: Kueue, new_run: NewRun, queue_namespace: str, queue_plane: Cluster, node: FakeNode
) -> None:
    """Two trials are on their way at a time, and the queue has one GPU; then a run of higher priority takes that."""
    kueue.add_queue(queue_namespace, "team", gpus=1)
    sweep = LiveSweep(queue_plane, node, queue_namespace)
    trials = [new_run("sweep-0"), new_run("sweep-1")]
    for trial in trials:
        node.scripts[queue_namespace, trial.name] = _interrupted()
    scheduling = {"queueName": "team", "workloadPriorityClassName": "low"}
    parameters = [{"path": "method.adapter.r", "values": [8, 16]}]
    sweep.apply({"template": {"spec": {"scheduling": scheduling}}, "parameters": parameters, "parallelism": 2})

    def look() -> tuple[LiveRun, LiveRun] | None:
        found = sweep.trials()
        phases = [found.get(trial.name, {}).get("status", {}).get("phase") for trial in trials]
        return (
            (trials[phases.index("Running")], trials[phases.index("Queued")]) if sorted(map(str, phases)) == ["Queued", "Running"] else None
        )

    first, second = wait_until(look, "one trial trains and the other one waits", SECONDS, sweep.explain)
    counts = {"total": 2, "active": 2, "succeeded": 0, "failed": 0}
    wait_until(lambda: sweep.status.get("counts") == counts, "both are counted as on their way", SECONDS, sweep.explain)
    urgent = new_run("urgent")
    urgent.apply({"scheduling": {**scheduling, "workloadPriorityClassName": "high"}})
    urgent.wait_phase("Running", SECONDS)
    first.wait_reason(Reason.PREEMPTED, seconds=SECONDS)
    first.wait_phase("Queued", SECONDS)
    assert second.status["phase"] == "Queued"
    urgent.end_pod(0, build_summary())
    # Which of the two comes first is the queue's to say.
    following = wait_until(lambda: next((each for each in trials if each.status["phase"] == "Running"), None), "one goes on", SECONDS)
    _end_with(following, 1.2 if following is first else 1.5)
    (last,) = [trial for trial in trials if trial is not following]
    _end_with(last, 1.2 if last is first else 1.5)
    wait_until(lambda: sweep.status.get("phase") == "Succeeded", "the sweep has succeeded", SECONDS, sweep.explain)
    assert (sweep.status["best"]["name"], sweep.status["best"]["value"]) == (first.name, 1.2)
    assert (first.status["interruptions"], first.status.get("failures", 0)) == (1, 0)


def _end_with(run: LiveRun, loss: float) -> None:
    run.wait_phase("Running", SECONDS)
    run.end_pod(0, build_summary(metrics=Metrics(loss=loss, eval_loss=loss)))
    run.wait_phase("Succeeded", SECONDS)


@pytest.mark.skipif(not REAL, reason="is Kueue's own webhook's work: `make kueue`")
def test_kueue_s_own_default_queue_is_not_fought_over(kueue: Kueue, new_run: NewRun, queue_namespace: str, queue_plane: Cluster) -> None:
    kueue.add_queue(queue_namespace, "default", gpus=1)
    time.sleep(2)  # its webhook learns of the queue by a watch
    since = queue_plane.audit_log.stat().st_size
    run = new_run("run")
    run.apply()
    run.wait_phase("Running", SECONDS)
    assert run.status["queue"]["name"] == "default"
    writes = read_writes(queue_plane.audit_log, user=USER, namespace=queue_namespace, since=since)
    assert [write for write in writes if write.resource == "jobs" and write.verb != "create"] == []


@pytest.mark.skipif(not REAL, reason="the stand-in has no ClusterQueues of Kueue's kind: make kueue")
def test_queues_that_the_chart_makes_admit_runs(kueue: Kueue, new_run: NewRun, queue_namespace: str, queue_plane: Cluster) -> None:
    del kueue
    queue = {
        "name": f"{queue_namespace}-chart",
        "flavor": "by-the-chart",
        "quotas": {"cpu": 100, "memory": "1Ti", "nvidia.com/gpu": 1},
        "namespaces": [queue_namespace],
        "localQueue": "team",
        "preemption": {"withinClusterQueue": "LowerPriority"},
    }
    flavor = {"name": "by-the-chart", "nodeLabels": {"kubernetes.io/hostname": "fake-node"}}
    install_templates(queue_plane, "kueue-queues", values={"kueue": {"flavors": [flavor], "clusterQueues": [queue]}})
    first, second = new_run("first"), new_run("second")
    first.apply(QUEUED)
    first.wait_phase("Running", SECONDS)
    second.apply(QUEUED)
    second.wait_reason(Reason.QUEUED, seconds=SECONDS)
    wait_until(lambda: first.status["queue"].get("clusterQueue") == queue["name"], "its ClusterQueue is named", SECONDS, first.explain)
