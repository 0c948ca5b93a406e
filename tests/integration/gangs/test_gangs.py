"""All pods of a run or none, by the schedulers themselves, on a pool of played nodes."""

import os

import pytest

from finetune_api.reasons import Reason
from tests.integration.gangs.conftest import Engine, Pool
from tests.support.fake_node import Script
from tests.support.group_runs import GROUP, end, names, wait_group
from tests.support.live_run import LiveRun, NewRun, Object, wait_until
from tests.support.manifests import merge
from tests.support.world import build_summary

REAL = os.environ.get("FINETUNE_REAL_GANGS") == "1"
pytestmark = [
    pytest.mark.cluster,
    pytest.mark.timeout(600, func_only=True),
    pytest.mark.skipif(not REAL, reason="needs the schedulers themselves: make gangs"),
]

SECONDS = 120.0
STOPPED = build_summary("interrupted", Reason.INTERRUPTED, checkpoint_step=4)


def _make_urgent(engine: Engine) -> None:
    priority = {"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": "urgent"}, "value": 1000}
    engine.cluster.client.apply("/apis/scheduling.k8s.io/v1/priorityclasses/urgent", priority)


def _group(engine: Engine, **more: object) -> dict[str, object]:
    spec: dict[str, object] = merge({**GROUP, "scheduling": {"gang": engine.scheduler.gang}}, more)
    return spec


def _placed(run: LiveRun) -> list[Object]:
    return [pod for pod in run.pods() if pod["spec"].get("nodeName") and pod["status"].get("phase") in ("Pending", "Running")]


def _refused(run: LiveRun) -> list[Object]:
    """Return the run's pods where the scheduler has said of both that they have no node."""
    pods = [pod for pod in run.pods() if pod["status"].get("phase") == "Pending"]
    said = [each for pod in pods for each in pod["status"].get("conditions", ()) if each["type"] == "PodScheduled"]
    return pods if len(pods) == 2 and [each["status"] for each in said] == ["False", "False"] else []


def _finish(run: LiveRun, group: dict[int, Object]) -> None:
    end(run, group[1], 0)
    end(run, group[0], 0)
    run.wait_phase("Succeeded", SECONDS)


def test_no_pod_of_a_group_has_a_node_until_all_can_have_one(engine: Engine, pool: Pool, new_run: NewRun) -> None:
    pool.add(gpus=1)
    run = new_run("run")
    run.apply(_group(engine))
    wait_until(lambda: _refused(run), "the scheduler has looked at both pods", SECONDS, run.explain)
    assert _placed(run) == []
    assert run.wait_phase("Pending")["gpus"] == 2
    pool.add(gpus=1)
    group = wait_group(run, set(), SECONDS)
    assert len({pod["spec"]["nodeName"] for pod in group.values()}) == 2
    _finish(run, group)


def test_of_two_groups_that_do_not_fit_together_one_runs_whole_and_then_the_other(engine: Engine, pool: Pool, new_run: NewRun) -> None:
    """Room for three of four pods: who places pods one by one would start one group and a half, or two halves."""
    pool.add(gpus=2)
    pool.add(gpus=1)
    runs = [new_run("one"), new_run("other")]
    for run in runs:
        run.apply(_group(engine))

    def look() -> tuple[LiveRun, LiveRun] | None:
        first, second = sorted(runs, key=lambda run: len(_placed(run)), reverse=True)
        return (first, second) if len(_placed(first)) == 2 and _refused(second) else None

    first, second = wait_until(look, "one group has its nodes, of the other it was said", SECONDS, lambda: [run.explain() for run in runs])
    assert _placed(second) == []
    group = wait_group(first, set(), SECONDS)
    assert _placed(second) == []
    _finish(first, group)
    _finish(second, wait_group(second, set(), SECONDS))


def test_what_a_group_waits_for_is_said_in_words(engine: Engine, pool: Pool, new_run: NewRun) -> None:
    """There are GPUs enough, but on one node too few of them beside one another."""
    pool.add(gpus=2)
    single, run = new_run("single"), new_run("run")
    single.apply()
    single.wait_phase("Running", SECONDS)
    pool.add(gpus=3)
    run.apply(_group(engine, resources={"gpus": 2}))
    wait_until(lambda: "Insufficient nvidia.com/gpu" in run.condition().get("message", ""), "what is missing", SECONDS, run.explain)
    said = run.condition()
    assert said["reason"] == Reason.UNSCHEDULABLE
    assert said["message"].startswith(f"The run's 2 pods get nodes all together, by {engine.scheduler.gang}")
    assert all(pod["metadata"]["name"] not in said["message"] for pod in run.pods()), "the same words whichever pod it was said of"
    assert _placed(run) == []
    single.end_pod(0, build_summary())
    _finish(run, wait_group(run, set(), SECONDS))


def test_a_group_that_waits_without_its_pod_group_has_it_again_with_a_new_job(engine: Engine, pool: Pool, new_run: NewRun) -> None:
    pool.add(gpus=1)
    run = new_run("run")
    run.apply(_group(engine))
    before = wait_until(lambda: _refused(run), "the scheduler has looked at both pods", SECONDS, run.explain)
    groups = f"/apis/{engine.scheduler.group_resource}/namespaces/{run.namespace}/podgroups"
    (group,) = run.client.request("GET", groups)["items"]
    assert group["spec"]["minMember"] == 2
    run.client.request("DELETE", f"{groups}/{group['metadata']['name']}")
    (job,) = run.jobs()
    run.client.request("DELETE", f"/apis/batch/v1/namespaces/{run.namespace}/jobs/{job['metadata']['name']}?propagationPolicy=Background")
    pool.add(gpus=1)
    _finish(run, wait_group(run, {pod["metadata"]["name"] for pod in before}, SECONDS))
    run.delete()
    wait_until(lambda: run.client.request("GET", groups)["items"] == [], "the PodGroup has gone with its run", SECONDS)


def test_a_group_that_loses_a_pod_to_a_higher_priority_waits_whole_and_goes_on(engine: Engine, pool: Pool, new_run: NewRun) -> None:
    _make_urgent(engine)
    pool.add(gpus=2)
    low, high = new_run("low"), new_run("high")
    low.apply(_group(engine, backoffLimit=0), Script(interrupted=STOPPED, stop_seconds=2))
    first = wait_group(low, set(), SECONDS)
    low.wait_phase("Running", SECONDS)
    high.apply({"resources": {"gpus": 1}, "scheduling": {"priorityClassName": "urgent"}})
    high.wait_phase("Running", SECONDS)
    (left,) = [pod for pod in low.pods() if pod["status"]["phase"] == "Running"]
    end(low, left, 75)  # the processes of a group agree on when to stop
    wait_until(lambda: _refused(low), "the group waits anew", SECONDS, low.explain)
    assert _placed(low) == []
    high.end_pod(0, build_summary())
    _finish(low, wait_group(low, names(first), SECONDS))
    status = low.status
    assert (status["interruptions"], status.get("failures", 0)) == (1, 0)


def test_a_group_gives_way_to_one_of_higher_priority_and_goes_on_after_it(engine: Engine, pool: Pool, new_run: NewRun) -> None:
    if not engine.scheduler.preempts:
        pytest.skip("preempts for nobody as it comes: its actions have no preempt")
    _make_urgent(engine)
    pool.add(gpus=2)
    low, high = new_run("low"), new_run("high")
    low.apply(_group(engine, backoffLimit=0), Script(interrupted=STOPPED, stop_seconds=2))
    first = wait_group(low, set(), SECONDS)
    low.wait_phase("Running", SECONDS)
    high.apply(_group(engine, scheduling={"priorityClassName": "urgent"}))
    group = wait_group(high, set(), SECONDS)
    wait_until(lambda: _refused(low), "the other group waits anew", SECONDS, low.explain)
    assert _placed(low) == []
    _finish(high, group)
    _finish(low, wait_group(low, names(first), SECONDS))
    status = low.status
    assert (status["interruptions"], status.get("failures", 0)) == (1, 0)
