"""Watches that are late, silent, cut or wrong, and an API server that is gone for a while."""

import asyncio
import time

import pytest

from finetune_api.names import API_VERSION
from tests.faults.support.bench import WATCHED, Bench, Case, Lane
from tests.faults.support.calls import CrashPoint
from tests.faults.support.faults import AT_ONCE, Answer, Cut, Delay, DropEvent, ErrorEvent, HoldBack, Rule, WatchFault
from tests.faults.support.figures import Figures
from tests.faults.support.scenarios import SCENARIOS, Scenario, measure_clean
from tests.faults.support.side_by_side import run_all
from tests.faults.support.witness import JOBS

pytestmark = [pytest.mark.cluster, pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(900)]

COMPLETE, SUSPEND = SCENARIOS[0], SCENARIOS[2]
RESYNC = 5


async def _play(case: Case, scenario: Scenario, patience: float = 120.0) -> float:
    case.patience = patience
    clean = await measure_clean(case.bench, scenario)
    began = time.monotonic()
    await scenario.play(case)
    await case.converge(clean.state)
    return time.monotonic() - began


async def test_a_view_that_is_behind(bench: Bench, figures: Figures, full: bool) -> None:
    seconds = 30.0 if full else 3.0
    cases = await bench.make_cases(len(SCENARIOS))
    async with bench.operate(cases) as lane:
        rule = lane.proxy.add(Rule(HoldBack(seconds)))
        took = await run_all(_play(case, scenario, 60 + 10 * seconds) for case, scenario in zip(cases, SCENARIOS, strict=True))
        await bench.check_silence(cases, 3.0, grace=seconds + 2)
    assert len(rule.hits) > len(cases), "no event was late: this test shows nothing"
    figures.add(
        3, f"every watch event {seconds:.0f} s late", f"{len(cases)} scenarios as in a clean run; each run at most {max(took):.0f} s"
    )


@pytest.mark.parametrize("fault", [DropEvent(), Cut(), ErrorEvent(410)], ids=["dropped", "cut", "410"])
async def test_each_watch_event_in_turn(bench: Bench, figures: Figures, fault: WatchFault, full: bool) -> None:
    works = reached = 0
    took: list[float] = []
    for scenario in SCENARIOS if full else [COMPLETE]:
        sent = [signature for signature, *_ in (await measure_clean(bench, scenario)).watch_events]
        events = [(signature, number) for signature in sorted(set(sent)) for number in range(sent.count(signature))]
        cases = await bench.make_cases(len(events))
        async with bench.operate(cases, FINETUNE_RESYNC_SECONDS=str(RESYNC)) as lane:
            rules = [
                lane.proxy.add(Rule(fault, signature=signature, namespace=case.namespace, event=number, times=1))
                for case, (signature, number) in zip(cases, events, strict=True)
            ]
            took += await run_all((_play(case, scenario) for case in cases), at_once=12)
            works += len(events)
            reached += sum(bool(rule.hits) for rule in rules)
            await bench.check_silence(cases, 3.0, grace=RESYNC + 2)
    # The last events of a clean run (of a Job's finalizers, say) may come together in another one.
    assert reached >= 0.9 * works, f"{reached} of {works}"
    words = {DropEvent: "dropped", Cut: "the stream is cut in the middle of it", ErrorEvent: "a 410 in its place"}[type(fault)]
    figures.add(
        5,
        f"each watch event in turn: {words}",
        f"{reached} events; each run at most {max(took):.0f} s (resync every {RESYNC} s)",
    )


async def test_deletions_in_the_gap_of_a_410(bench: Bench, figures: Figures) -> None:
    gone, jobless, other = cases = await bench.make_cases(3)
    clean = await measure_clean(bench, COMPLETE)
    async with bench.operate(cases) as lane:
        for case in (gone, jobless):
            case.script.until_stopped = 1
            await case.create()
        for case in (gone, jobless):
            await case.until_phase("Running")
        assert lane.proxy.silence_watches() == len(WATCHED) * len(cases)
        await gone.delete()
        (job,) = jobless.find(JOBS)
        await bench.api.call("DELETE", f"{_jobs(jobless)}/{job['metadata']['name']}", {"propagationPolicy": "Background"})
        await jobless.until(lambda: not jobless.find(JOBS), "the Job is gone")
        errors = [
            lane.proxy.add(Rule(ErrorEvent(410), signature=f"watch {resource}", namespace=case.namespace, event=AT_ONCE, times=1))
            for resource in WATCHED
            for case in cases
        ]
        began = time.monotonic()
        lane.proxy.cut_watches()
        await jobless.until_phase("Succeeded")
        took = time.monotonic() - began
        await gone.until(lambda: not gone.state["finetunejobs"] and not gone.state["pods"], "all is gone")
        await _play(other, COMPLETE)
        jobless.check(jobs_of_an_attempt=2)
        assert jobless.state["finetunejobs"][0]["status"]["restarts"] == 1
        # What goes while nobody looks may be written to once; the answer tells.
        assert len([call for call in lane.proxy.writes(gone.namespace) if "404" in call.outcome[-1:]]) <= 1
        assert lane.operator.starts == 1
        assert all(rule.hits for rule in errors)
        await bench.check_silence(cases, 3.0, grace=RESYNC + 2)
    assert clean.state["finetunejobs"][0]["status"]["phase"] == "Succeeded"
    figures.add(6, "410 on every watch, a FineTuneJob and a Job deleted in the gap", f"Job made again and run to its end in {took:.1f} s")


def _jobs(case: Case) -> str:
    return f"/apis/batch/v1/namespaces/{case.namespace}/jobs"


async def test_a_watch_that_begins_anew_with_nothing_to_show(bench: Bench, figures: Figures) -> None:
    """The Job is deleted while its watch is silent, and the list with which the watch begins anew is empty: no event tells."""
    (case,) = await bench.make_cases(1)
    async with bench.operate([case]) as lane:
        case.script.until_stopped = 1
        await case.create()
        await case.until_phase("Running")
        lane.proxy.silence_watches()
        (job,) = case.find(JOBS)
        await bench.api.call("DELETE", f"{_jobs(case)}/{job['metadata']['name']}", {"propagationPolicy": "Background"})
        await case.until(lambda: not case.find(JOBS), "the Job is gone")
        rule = lane.proxy.add(Rule(ErrorEvent(410), signature="watch jobs", event=AT_ONCE, times=1))
        began = time.monotonic()
        lane.proxy.cut_watches("watch jobs")
        await case.until(lambda: case.find(JOBS), "the Job is made again")
        took = time.monotonic() - began
        await case.until_phase("Succeeded")
        assert rule.hits
        assert lane.operator.starts == 1
    figures.add(
        6,
        "410, and the list from which the watch begins anew is empty",
        f"Job made again {took:.1f} s after (resync every 300 s)",
        took=took,
        budget=30.0,
    )


async def test_deleted_between_the_operator_s_lists_and_its_watches(bench: Bench, figures: Figures) -> None:
    """At a start, kopf's list, from which it would watch, comes late. That the Job goes meanwhile is told, and nothing is listed again."""
    (case,) = await bench.make_cases(1)
    async with bench.operate([case]) as lane:
        case.script.until_stopped = 1
        await case.create()
        await case.until_phase("Running")
        await lane.stop()
        before = _count_lists(lane)
        late = lane.proxy.add(Rule(Delay(3.0), point=CrashPoint("list jobs", before + 1)))
        lane.operator.start()
        await case.until(lambda: _count_lists(lane) > before, "the operator has listed the Jobs")
        await lane.operator.wait_until_ready()
        (job,) = case.find(JOBS)
        await bench.api.call("DELETE", f"{_jobs(case)}/{job['metadata']['name']}", {"propagationPolicy": "Background"})
        began = time.monotonic()
        await case.until(lambda: case.find(JOBS) and case.find(JOBS) != [job], "the Job is made again")
        took = time.monotonic() - began
        await case.until_phase("Succeeded")
        case.check(jobs_of_an_attempt=2)
        assert late.hits
        assert _count_lists(lane) == before + 2
    fault = "a Job deleted between the operator's lists at its start and its watches, 3 s apart"
    figures.add(24, fault, f"made again {took:.1f} s after its deletion; nothing is listed again")


def _count_lists(lane: Lane) -> int:
    return sum(call.signature == "list jobs" for call in lane.proxy.calls)


async def test_a_watch_is_answered_410(bench: Bench, figures: Figures) -> None:
    """As an answer instead of an error in the stream, once on every watch; a FineTuneJob and a Job are deleted in the gap."""
    gone, jobless = cases = await bench.make_cases(2)
    async with bench.operate(cases) as lane:
        for case in cases:
            case.script.until_stopped = 1
            await case.create()
        for case in cases:
            await case.until_phase("Running")
        lane.proxy.silence_watches()
        await gone.delete()
        (job,) = jobless.find(JOBS)
        await bench.api.call("DELETE", f"{_jobs(jobless)}/{job['metadata']['name']}", {"propagationPolicy": "Background"})
        await jobless.until(lambda: not jobless.find(JOBS), "the Job is gone")
        rules = [
            lane.proxy.add(Rule(Answer(410, reason="Expired"), signature=f"watch {resource}", namespace=case.namespace, times=1))
            for resource in WATCHED
            for case in cases
        ]
        began = time.monotonic()
        lane.proxy.cut_watches()
        await jobless.until_phase("Succeeded")
        took = time.monotonic() - began
        await gone.until(lambda: not gone.state["finetunejobs"] and not gone.state["pods"], "all is gone")
        jobless.check(jobs_of_an_attempt=2)
        assert all(rule.hits for rule in rules)
        assert lane.operator.starts == 1
    figures.add(
        6,
        "410 as the answer to every watch, deletions in the gap",
        f"Job made again and run to its end in {took:.1f} s, 0 restarts",
        took=took,
        budget=30.0,
    )


async def test_watches_that_break_for_good_end_the_process(bench: Bench, figures: Figures) -> None:
    """kopf gives up for good at an answer that it does not know; the kubelet starts the operator again."""
    (case,) = await bench.make_cases(1)
    case.patience = 120.0
    async with bench.operate([case], start=False) as lane, lane.kept_alive():
        await lane.operator.wait_until_ready(may_end=True)
        case.script.hold = asyncio.Event()
        case.script.wait_for_phase = False
        await case.create()
        await case.until_phase("Running")
        rules = [lane.proxy.add(Rule(Answer(400), signature=f"watch {resource}", times=1)) for resource in WATCHED]
        began = time.monotonic()
        lane.proxy.cut_watches()
        await case.until(lambda: lane.operator.starts == 2, "the operator is started again")
        lane.proxy.heal()
        case.script.hold.set()
        await case.until_phase("Succeeded")
        took = time.monotonic() - began
        await case.converge((await measure_clean(bench, COMPLETE)).state)
        assert any(rule.hits for rule in rules)
    figures.add(7, "400 on the watches, at which kopf gives up", f"the process ended by itself; caught up {took:.1f} s after")


@pytest.mark.parametrize("status", [410, 429, 500, 504])
async def test_watches_answered_with_errors(bench: Bench, figures: Figures, status: int, full: bool) -> None:
    seconds = 120.0 if full else 8.0
    (case,) = await bench.make_cases(1)
    case.patience = 120.0
    async with bench.operate([case], start=False) as lane, lane.kept_alive():
        await lane.operator.wait_until_ready(may_end=True)
        rule = lane.proxy.add(Rule(Answer(status), signature=None))
        rule.signature = "watch finetunejobs"
        others = [lane.proxy.add(Rule(Answer(status), signature=f"watch {resource}")) for resource in WATCHED[1:]]
        lane.proxy.cut_watches()
        await asyncio.sleep(seconds)
        await case.until(lambda: rule.hits or any(other.hits for other in others), "a watch that was refused")
        await case.create()
        lane.proxy.heal()
        began = time.monotonic()
        await case.until_phase("Succeeded")
        took = time.monotonic() - began
        await case.converge((await measure_clean(bench, COMPLETE)).state)
        refused = len(rule.hits) + sum(len(other.hits) for other in others)
        starts = lane.operator.starts
    assert refused
    figures.add(
        7,
        f"{status} on every watch for {seconds:.0f} s",
        f"{refused} refused, {starts - 1} restarts; a run created then is done {took:.1f} s after",
        took=took,
        budget=30.0,
    )


async def test_api_server_gone(bench: Bench, figures: Figures, full: bool) -> None:
    seconds = 300.0 if full else 10.0
    cases = running, created, suspended = await bench.make_cases(3)
    for case in cases:
        case.patience = 90.0
    running.script.wait_for_phase = False
    running.script.hold = asyncio.Event()
    suspended.script.until_stopped = 1
    async with bench.operate(cases, start=False) as lane, lane.kept_alive():
        await lane.operator.wait_until_ready(may_end=True)
        await asyncio.gather(running.create(), suspended.create())
        await running.until_phase("Running")
        await suspended.until_phase("Running")
        lane.proxy.vanish()
        running.script.hold.set()
        await created.create()
        await suspended.patch(suspend=True)
        await asyncio.sleep(seconds)
        lane.proxy.heal()
        began = time.monotonic()
        await asyncio.gather(running.until_phase("Succeeded"), created.until_phase("Succeeded"), suspended.until_phase("Suspended"))
        took = time.monotonic() - began
        await suspended.patch(suspend=False)
        clean = await measure_clean(bench, COMPLETE)
        await asyncio.gather(running.converge(clean.state), created.converge(clean.state))
        await suspended.converge((await measure_clean(bench, SUSPEND)).state)
        await bench.check_silence(cases, 3.0)
        starts = lane.operator.starts
    figures.add(
        8,
        f"no API server for {seconds:.0f} s",
        f"one run ended, one created, one suspended meanwhile: caught up {took:.1f} s after, {starts - 1} restarts",
        took=took,
        budget=30.0,
    )


async def test_watches_fall_silent(bench: Bench, figures: Figures) -> None:
    """Nothing but the silence itself can bring the new run: the lists of the start are over, and the next resync is far away."""
    resync = 300
    first, case = await bench.make_cases(2)
    case.patience = 120.0
    async with bench.operate([first, case], FINETUNE_RESYNC_SECONDS=str(resync)) as lane:
        await _play(first, COMPLETE)
        assert lane.proxy.silence_watches() == len(WATCHED) * len(lane.namespaces)
        began = time.monotonic()
        await case.create()
        await asyncio.sleep(5)
        assert not case.find(JOBS), "the operator heard of the run although its watches were silent"
        await case.until(lambda: case.find(JOBS), "the Job is there")
        took = time.monotonic() - began
        await case.until_phase("Succeeded")
        await case.converge((await measure_clean(bench, COMPLETE)).state)
    figures.add(
        9, "every watch silent, connections open", f"Job of a new run {took:.1f} s after (resync every {resync} s)", took=took, budget=75.0
    )


async def test_the_witness_is_not_deceived(bench: Bench) -> None:
    """The tests' own view must not go by the proxy: what it shows differs while a fault lasts."""
    (case,) = await bench.make_cases(1)
    async with bench.operate([case]) as lane:
        lane.proxy.add(Rule(DropEvent()))
        await case.create()
        await case.until(lambda: case.body, "the FineTuneJob")
        await asyncio.sleep(1)
        listing = await bench.api.call("GET", f"/apis/{API_VERSION}/namespaces/{case.namespace}/finetunejobs")
        assert [item["metadata"]["name"] for item in listing["items"]] == ["run"]
        assert not lane.proxy.writes(case.namespace)
