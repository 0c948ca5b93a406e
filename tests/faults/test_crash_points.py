"""The operator killed (SIGKILL) before and after its calls: whatever was done by then, the run ends as a clean one does."""

import time
from dataclasses import dataclass

import pytest

from tests.faults.support.bench import Bench, Case, Lane
from tests.faults.support.calls import CrashPoint
from tests.faults.support.faults import After, Before, Rule
from tests.faults.support.figures import Figures
from tests.faults.support.scenarios import SCENARIOS, Scenario, choose_calls, measure_clean
from tests.faults.support.side_by_side import run_all

pytestmark = [pytest.mark.cluster, pytest.mark.asyncio(loop_scope="session")]

TRIES = 3
"""Runs that a point gets: calls that depend on who is faster may be left out of one."""
MOST = 0.75
"""The share of the points that has to be reached, at the least."""


@dataclass
class Crash:
    """Kills the operator when called."""

    lane: Lane
    time: float = 0.0

    def __call__(self) -> None:
        self.lane.operator.kill()
        self.time = time.monotonic()


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda each: each.name)
async def test_sigkill_at_every_call(bench: Bench, scenario: Scenario, figures: Figures, full: bool) -> None:
    clean = await measure_clean(bench, scenario)
    points = [call.point for call in await choose_calls(bench, scenario, full=full)]
    kills = [(point, when) for point in points for when in ("before", "after")]
    outcomes = await run_all(kill_at(bench, scenario, point, when, clean.state) for point, when in kills)
    recoveries = [seconds for seconds in outcomes if seconds is not None]
    missed = {str(point) for (point, _), seconds in zip(kills, outcomes, strict=True) if seconds is None}
    assert all("patch" in name or "list" in name or "events" in name for name in missed), f"never reached: {missed}"
    assert len(recoveries) >= MOST * len(kills), f"never reached: {missed}"

    writes = sum(point.signature.split()[0] in ("create", "patch", "delete") for point in points)
    words = f"{len(recoveries)} of {len(kills)} points ({writes} writes, {len(points) - writes} reads, before and after each)"
    slowest = f"the run's end at most {max(recoveries):.1f} s after the kill" if recoveries else "no calls but those of a clean start"
    figures.add(1, f"SIGKILL at every {'call' if full else 'write'}: {scenario.name}", f"{words}; {slowest}")


async def kill_at(bench: Bench, scenario: Scenario, point: CrashPoint, when: str, expected: object) -> float | None:
    """Kill the operator at ``point``; return the seconds from there to the state ``expected``, or None where no run came to that point.

    How many status patches, their Events and looks at the cluster there are depends on what changed in the same tenth of a second.
    """
    for _ in range(TRIES):
        (case,) = await bench.make_cases(1)
        async with bench.operate([case], start=False) as lane:
            crash = Crash(lane)
            rule = lane.proxy.add(Rule(Before(crash) if when == "before" else After(crash), point=point, times=1))
            try:
                async with lane.kept_alive():
                    ended = await _play(lane, case, scenario, expected)
            except AssertionError as error:
                raise AssertionError(f"killed {when} {point}: {error}\n{lane.operator.read_log()}") from error
            if rule.hits:
                assert lane.operator.starts == 2, f"killed {when} {point}: the operator ended by itself too:\n{lane.operator.read_log()}"
                return max(0.0, ended - crash.time)  # an Event's write may come after all else is as it should be
    return None


async def _play(lane: Lane, case: Case, scenario: Scenario, expected: object) -> float:
    await lane.operator.wait_until_ready(may_end=True)
    await scenario.play(case)
    assert isinstance(expected, dict)
    await case.converge(expected)
    ended = time.monotonic()
    await case.bench.check_silence([case], 1.0)
    return ended
