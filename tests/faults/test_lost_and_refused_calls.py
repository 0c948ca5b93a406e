"""Calls that are lost, refused or slow: answers that never arrive after the deed was done above all."""

import asyncio
import time
from typing import Any

import pytest

from tests.faults.support.bench import Bench, Case, Lane
from tests.faults.support.calls import CrashPoint
from tests.faults.support.faults import Answer, CallFault, Delay, DropReply, DropRequest, Rule
from tests.faults.support.figures import Figures
from tests.faults.support.scenarios import SCENARIOS, Scenario, choose_calls, measure_clean
from tests.faults.support.side_by_side import run_all

MOST = 0.75
"""The share of the writes that has to be met, at the least."""

pytestmark = [pytest.mark.cluster, pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(900)]


@pytest.mark.parametrize("fault", [DropReply(), DropRequest()], ids=["reply", "request"])
async def test_lost_at_every_write(bench: Bench, figures: Figures, fault: CallFault, full: bool) -> None:
    works: list[tuple[Scenario, CrashPoint]] = []
    for scenario in SCENARIOS:
        works += [(scenario, call.point) for call in await choose_calls(bench, scenario, full=full) if call.is_write]
    cases = await bench.make_cases(len(works))
    async with bench.operate(cases) as lane:
        pairs = zip(cases, works, strict=True)
        took = await run_all((_play_with_loss(lane, case, scenario, point, fault) for case, (scenario, point) in pairs), at_once=12)
        await bench.check_silence(cases, 3.0)
    met = [seconds for seconds in took if seconds is not None]
    assert len(met) >= MOST * len(took)
    words = "the reply is lost after the deed" if isinstance(fault, DropReply) else "the request is lost"
    figures.add(2, f"{words}, at every write", f"{len(met)} of {len(took)} writes, one at a time; each run at most {max(met):.0f} s")


async def _play_with_loss(lane: Lane, case: Case, scenario: Scenario, point: CrashPoint, fault: CallFault) -> float | None:
    """Return how long the run took; None where it made no such write.

    How many status patches and Events there are depends on what changed in the same tenth of a second.
    """
    rule = lane.proxy.add(Rule(fault, namespace=case.namespace, point=point, times=1))
    began = time.monotonic()
    await scenario.play(case)
    await case.converge((await measure_clean(case.bench, scenario)).state)
    took = time.monotonic() - began
    await case.settle()  # an Event comes after the status that it speaks of
    assert rule.hits or "patch" in point.signature or "events" in point.signature, f"{scenario.name}: {point} is not reached"
    return took if rule.hits else None


@pytest.mark.parametrize("status", [409, 422, 429, 500, 503])
async def test_every_first_write_is_refused(bench: Bench, figures: Figures, status: int) -> None:
    cases = await bench.make_cases(len(SCENARIOS))
    async with bench.operate(cases) as lane:
        rule = lane.proxy.add(Rule(Answer(status, retry_after=1 if status == 429 else None), signature="write", once_each=True))
        took = await run_all(_play(case, scenario) for case, scenario in zip(cases, SCENARIOS, strict=True))
        await bench.check_silence(cases, 2.0)
    assert len(rule.hits) > len(cases)
    figures.add(11, f"{status} on every first write of a kind", f"{len(rule.hits)} refused, none lost; each run at most {max(took):.0f} s")


@pytest.mark.parametrize("trouble", ["fails", "takes a second"])
async def test_a_third_of_the_calls(bench: Bench, figures: Figures, seed: int, full: bool, trouble: str) -> None:
    scenarios = SCENARIOS * (10 if full else 2)
    cases = await bench.make_cases(len(scenarios))
    faults: list[tuple[CallFault, float]] = [(Delay(1.0), 0.3)]
    if trouble == "fails":
        # One after the other, each has its share of what the others leave; together they befall three calls of ten.
        faults = [
            (DropRequest(), 0.06),
            (DropReply(), 0.064),
            (Answer(500), 0.068),
            (Answer(503), 0.073),
            (Answer(429, retry_after=1), 0.079),
        ]
    async with bench.operate(cases, seed=seed) as lane:
        before = len(lane.proxy.calls)
        for fault, probability in faults:
            lane.proxy.add(Rule(fault, probability=probability))
        took = await run_all((_play(case, scenario) for case, scenario in zip(cases, scenarios, strict=True)), at_once=len(cases))
        befallen = sum(len(rule.hits) for rule in lane.proxy.rules)
        share = 100 * befallen / (len(lane.proxy.calls) - before)
        lane.proxy.heal()
        await bench.check_silence(cases, 3.0, grace=3.0)
    assert befallen
    figures.add(
        10,
        f"30% of the calls: each {trouble}",
        f"{len(cases)} runs, {befallen} calls befallen ({share:.0f}%); each run at most {max(took):.0f} s",
    )


async def _play(case: Case, scenario: Scenario) -> float:
    case.patience = 120.0
    clean: Any = await measure_clean(case.bench, scenario)
    began = time.monotonic()
    await scenario.play(case)
    await case.converge(clean.state)
    return time.monotonic() - began


async def test_others_write_at_the_same_time(bench: Bench, figures: Figures, full: bool) -> None:
    """The operator's writes and those of others meet on the same objects all the time: none is lost."""
    writers, updates = 16, 625 if full else 30
    scenarios = [scenario for scenario in SCENARIOS if scenario.name != "delete"]
    cases = await bench.make_cases(len(scenarios))

    async def annotate(writer: int) -> None:
        case = cases[writer % len(cases)]
        await case.until(lambda: case.body, "the FineTuneJob")
        for number in range(updates):
            body = {"metadata": {"annotations": {f"example.com/writer-{writer}": str(number)}}}
            await bench.api.call("PATCH", case.path, body)

    async with bench.operate(cases) as lane:
        runs = asyncio.gather(*(_play(case, scenario) for case, scenario in zip(cases, scenarios, strict=True)))
        await asyncio.gather(*map(annotate, range(writers)))
        await runs
        conflicts = sum("409" in call.outcome for call in lane.proxy.writes())
        kept = [(await bench.api.call("GET", case.path))["metadata"]["annotations"] for case in cases]
        for writer in range(writers):
            assert kept[writer % len(cases)][f"example.com/writer-{writer}"] == str(updates - 1)
        await bench.check_silence(cases, 2.0)
    words = f"none lost on either side; {conflicts} of the operator's writes met one (409)"
    figures.add(11, f"{writers * updates} updates by others during {len(cases)} runs", words)
