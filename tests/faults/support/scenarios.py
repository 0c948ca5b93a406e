"""What users and trainers do in a run: the scenarios whose every call is a crash point."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from finetune_api.exit_codes import ExitCode
from tests.faults.support.bench import Bench, Case
from tests.faults.support.calls import Call
from tests.faults.support.direct import Object
from tests.faults.support.node import Script


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


async def expire(case: Case) -> None:
    """Completed, and its Job removed when its time to live is over."""
    await case.create(ttlSecondsAfterFinished=0)
    await case.until_phase("Succeeded")


SCENARIOS = [Scenario(play.__name__, play) for play in (complete, fail, suspend, delete, expire)]


async def play_clean(bench: Bench, scenario: Scenario) -> tuple[Object, list[Call]]:
    """Play a scenario without faults; return the state at its end, and the operator's calls."""
    (case,) = await bench.make_cases(1)
    async with bench.operate([case]) as lane:
        await scenario.play(case)
        state = await case.settle()
        case.check()
        await bench.check_silence([case], 1.0)
        calls = list(lane.proxy.calls)
    bench.expected[scenario.name] = state
    return state, calls
