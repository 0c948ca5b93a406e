"""What users and trainers do in a run: the scenarios whose every call is a crash point."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from itertools import takewhile

from finetune_api.exit_codes import ExitCode
from tests.faults.support.bench import Bench, Case, Recording
from tests.faults.support.calls import Call
from tests.faults.support.node import Script
from tests.faults.support.witness import JOBS, PODS


@dataclass(frozen=True, slots=True)
class Scenario:
    """A way that a run can go."""

    name: str
    play: Callable[[Case], Awaitable[None]]


async def complete(case: Case) -> None:
    """Created, trained, completed."""
    await case.create()
    await case.until_phase("Succeeded")


async def fail(case: Case) -> None:
    """Created, trained, failed for good by its data."""
    case.bench.node.scripts[case.namespace] = Script(exit_codes=(ExitCode.DATA_INVALID,))
    await case.create()
    await case.until_phase("Failed")


async def suspend(case: Case) -> None:
    """Suspended while it trains, resumed, completed."""
    case.bench.node.scripts[case.namespace] = Script(exit_codes=(0,), until_stopped=1)
    await case.create()
    await case.until_phase("Running")
    await case.patch(suspend=True)
    await case.until_phase("Suspended")
    await case.patch(suspend=False)
    await case.until_phase("Succeeded")


async def delete(case: Case) -> None:
    """Deleted while it trains."""
    case.bench.node.scripts[case.namespace] = Script(until_stopped=9)
    await case.create()
    await case.until_phase("Running")
    await case.delete()
    await case.until(lambda: not case.bench.witness.current[case.namespace], "all is gone")


async def expire(case: Case) -> None:
    """Completed, and its Job removed when its time to live is over."""
    await case.create(ttlSecondsAfterFinished=0)
    await case.until_phase("Succeeded")
    await case.until(lambda: not case.find(JOBS) and not case.find(PODS), "the Job and its pod are gone")


SCENARIOS = [Scenario(play.__name__, play) for play in (complete, fail, suspend, delete, expire)]


async def measure_clean(bench: Bench, scenario: Scenario) -> Recording:
    """Return the scenario's recording, made once in a session."""
    if scenario.name not in bench.recordings:
        bench.recordings[scenario.name] = await _play_clean(bench, scenario)
    return bench.recordings[scenario.name]


async def _play_clean(bench: Bench, scenario: Scenario) -> Recording:
    """Play a scenario without faults, and check that it is silent afterwards."""
    (case,) = await bench.make_cases(1)
    async with bench.operate([case]) as lane:
        await scenario.play(case)
        state = await case.settle()
        assert not state["orphans"], state
        case.check()
        await bench.check_silence([case], 1.0)
        return Recording(state, list(lane.proxy.calls), list(lane.proxy.watch_events))


async def choose_calls(bench: Bench, scenario: Scenario, *, full: bool) -> list[Call]:
    """Return the calls at which to kill: all of them, or, shortened, the writes that a completing run doesn't make just so."""
    calls = (await measure_clean(bench, scenario)).calls
    if full:
        return calls
    writes = [call for call in calls if call.is_write]
    if scenario.play is complete:
        return writes
    usual = [call.point for call in (await measure_clean(bench, SCENARIOS[0])).calls if call.is_write]
    known = list(takewhile(lambda pair: pair[0].point == pair[1], zip(writes, usual, strict=False)))
    # Where two runs part, a write and its Event are alike by name but say something else.
    return writes[max(0, len(known) - 2) :]
