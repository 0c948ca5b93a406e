"""Views of the past, namesakes, strangers, and hands that reach in: no run is trained twice, and no Job is taken over."""

import asyncio
import json

import pytest

from finetune_api.names import API_VERSION, PLURAL
from tests.faults.support.bench import Bench, Case
from tests.faults.support.direct import Object
from tests.faults.support.faults import Answer, HoldBack, Rule, Snapshot
from tests.faults.support.figures import Figures
from tests.faults.support.node import Script
from tests.faults.support.scenarios import SCENARIOS, measure_clean
from tests.faults.support.witness import FINETUNEJOBS, JOBS, OURS, PODS

pytestmark = [pytest.mark.cluster, pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(600)]

WATCH = "watch finetunejobs"
COMPLETE, EXPIRE = SCENARIOS[0], SCENARIOS[4]


def _paths(case: Case) -> dict[str, str]:
    return {
        "list finetunejobs": f"/apis/{API_VERSION}/namespaces/{case.namespace}/{PLURAL}",
        "list jobs": f"/apis/batch/v1/namespaces/{case.namespace}/jobs{OURS}",
        "list pods": f"/api/v1/namespaces/{case.namespace}/pods{OURS}",
    }


def _build_list_of(case: Case, phase: str | None) -> bytes:
    """Return the list of FineTuneJobs as it was when the run was first in ``phase``."""
    sightings = (each.body for each in case.bench.witness.history[case.namespace] if each.path == FINETUNEJOBS)
    body = next(body for body in sightings if body.get("status", {}).get("phase") == phase)
    version = body["metadata"]["resourceVersion"]
    return json.dumps(
        {"apiVersion": API_VERSION, "kind": "FineTuneJobList", "metadata": {"resourceVersion": version}, "items": [body]}
    ).encode()


@pytest.mark.parametrize("moment", ["still to come", "created", "Pending", "Running"])
async def test_restart_onto_an_older_cache(bench: Bench, figures: Figures, full: bool, moment: str) -> None:
    """The run has ended and its Job is gone; the operator restarts and is shown the past. It must not train again."""
    behind = 30.0 if full else 6.0
    (case,) = await bench.make_cases(1)
    clean = await measure_clean(bench, EXPIRE)
    async with bench.operate([case], start=False) as lane:
        case.script.hold = asyncio.Event()
        older: dict[str, bytes] = {}
        if moment == "still to come":
            # No list shows the run; the watch then shows it as it was created, as if it were new, and what came after that much later.
            older = {signature: await lane.proxy.take_snapshot(path) for signature, path in _paths(case).items()}
        await case.create(ttlSecondsAfterFinished=0)
        await lane.start()
        await case.until_phase("Running")
        case.script.hold.set()
        await case.until_phase("Succeeded")
        await case.until(lambda: not case.find(JOBS) and not case.find(PODS), "the Job is gone")
        await lane.stop()
        if not older:
            older = {"list finetunejobs": _build_list_of(case, None if moment == "created" else moment)}
        seen = len(bench.witness.history[case.namespace])
        for signature, body in older.items():
            lane.proxy.add(Rule(Snapshot(body), signature=signature))
        if moment == "still to come":
            shown = sum(signature == WATCH and namespace == case.namespace for signature, namespace, *_ in lane.proxy.watch_events)
            lane.proxy.add(Rule(HoldBack(0.0), signature=WATCH, event=shown))
        lane.proxy.add(Rule(HoldBack(behind)))
        before = len(lane.proxy.calls)
        await lane.start()
        await asyncio.sleep(behind + 2)
        tried = [call for call in lane.proxy.calls[before:] if call.is_write]
        assert tried, "the older view was not believed even for a moment: this test shows nothing"
        lane.proxy.heal()
        await case.converge(clean.state)
        assert len(bench.witness.history[case.namespace]) == seen, "something changed after the end"
        refused = sum("409" in call.outcome for call in tried)
        assert not [call for call in tried if call.signature == "create jobs"]
    figures.add(
        4,
        f"restart onto a cache of when the run was {moment}, {behind:.0f} s behind",
        f"{refused} of {len(tried)} writes refused (409); no Job made, nothing changed",
    )


@pytest.mark.parametrize("how", ["at once", "while the operator is down", "with a view 3 s behind"])
async def test_deleted_and_created_again(bench: Bench, figures: Figures, how: str) -> None:
    (case,) = await bench.make_cases(1)
    clean = await measure_clean(bench, COMPLETE)
    async with bench.operate([case]) as lane:
        bench.node.scripts[case.namespace] = Script(until_stopped=1)
        rules = [lane.proxy.add(Rule(HoldBack(3.0)))] if "behind" in how else []
        first = await case.create()
        await case.until_phase("Running")
        (old_job,) = case.find(JOBS)
        if "down" in how:
            await lane.stop()
        await case.delete()
        second = await case.create()
        if "down" in how:
            await lane.start()
        await case.until(lambda: case.phase == "Succeeded" and case.body and _uid(case.body) == _uid(second), "the second has succeeded")
        await case.until(lambda: case.state == clean.state, f"the clean state {clean.state}")
        case.check()
    assert all(rule.hits for rule in rules)
    (job,) = case.find(JOBS)
    assert _uid(first) != _uid(second)
    assert _uid(job) != _uid(old_job)
    assert job["metadata"]["ownerReferences"][0]["uid"] == _uid(second)
    figures.add(14, f"deleted and created again under the same name, {how}", "the second has a Job of its own; the end is a clean run's")


async def test_a_strangers_job_of_our_name(bench: Bench, figures: Figures) -> None:
    (case,) = await bench.make_cases(1)
    clean = await measure_clean(bench, COMPLETE)
    jobs = f"/apis/batch/v1/namespaces/{case.namespace}/jobs"
    container = {"name": "main", "image": "none"}
    async with bench.operate([case]) as lane:
        rule = lane.proxy.add(Rule(Answer(503), signature="create jobs"))
        await case.create()
        await case.until(lambda: (case.body or {}).get("status", {}).get("jobName"), "the claim")
        assert case.body is not None
        name = case.body["status"]["jobName"]
        template = {"spec": {"restartPolicy": "Never", "containers": [container]}}
        stranger = await bench.api.call("POST", jobs, {"metadata": {"name": name}, "spec": {"suspend": True, "template": template}})
        rule.active = False
        await case.until(lambda: _reason(case) == "NameTaken", "the reason NameTaken")
        kept = await bench.api.call("GET", f"{jobs}/{name}")
        assert (_uid(kept), kept["metadata"].get("ownerReferences")) == (_uid(stranger), None)
        await bench.api.call("DELETE", f"{jobs}/{name}", {"propagationPolicy": "Background"})
        await case.until_phase("Succeeded")
        took = await case.converge(clean.state)
        await bench.check_silence([case], 2.0)
    figures.add(
        15,
        "a stranger's Job of our name",
        f"said (NameTaken), left alone; once it is deleted the run goes on and ends as a clean one ({took:.1f} s)",
    )


@pytest.mark.parametrize("what", ["Job while it trains", "pod while it trains", "Job after the end"])
async def test_deleted_by_hand(bench: Bench, figures: Figures, what: str) -> None:
    (case,) = await bench.make_cases(1)
    clean = await measure_clean(bench, COMPLETE)
    expected = clean.state
    async with bench.operate([case]):
        if what == "Job after the end":
            await case.create()
            await case.until_phase("Succeeded")
            await case.converge(clean.state)
            await _delete_by_hand(case, JOBS)
            await case.until(lambda: not case.find(JOBS) and not case.find(PODS), "the Job is gone")
            expected = {**clean.state, "jobs": [], "pods": []}
            await asyncio.sleep(3)
        else:
            bench.node.scripts[case.namespace] = Script(until_stopped=1)
            await case.create()
            await case.until_phase("Running")
            await _delete_by_hand(case, JOBS if what.startswith("Job") else PODS)
            await case.until_phase("Succeeded")
            (run,) = clean.state["finetunejobs"]
            counted = {"restarts": 1, "interruptions": 1, "attemptInterruptions": 1}
            expected = {**clean.state, "finetunejobs": [{**run, "status": {**run["status"], **counted}}]}
        await case.converge(expected, jobs_of_an_attempt=2 if what == "Job while it trains" else 1)
        await bench.check_silence([case], 2.0)
    figures.add(
        16, f"deleted by hand: {what}", "not trained again" if what.endswith("end") else "the next pod resumes, counted as one restart"
    )


async def _delete_by_hand(case: Case, path: str) -> None:
    (body,) = case.find(path)
    collection = path.replace("/v1/", f"/v1/namespaces/{case.namespace}/")
    await case.bench.api.call("DELETE", f"{collection}/{body['metadata']['name']}", {"propagationPolicy": "Background"})


def _uid(body: Object) -> str:
    return str(body["metadata"]["uid"])


def _reason(case: Case) -> str | None:
    conditions = (case.body or {}).get("status", {}).get("conditions", ())
    return next((condition["reason"] for condition in conditions if condition["type"] == "Succeeded"), None)
