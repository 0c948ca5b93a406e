"""Churn under random faults: a slice of seconds of `make soak`, which goes on for an hour and measures what it costs."""

import asyncio

import pytest

from tests.faults.support.bench import Bench
from tests.faults.support.churn import Churn
from tests.faults.support.figures import Figures
from tests.faults.support.weather import Weather
from tests.support.operator_process import NAMESPACE, TLS_SECRET

pytestmark = [pytest.mark.cluster, pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(300)]


async def test_nothing_is_stuck_or_left_after_random_faults(bench: Bench, figures: Figures, full: bool, seed: int) -> None:
    seconds, at_once = (60.0, 20) if full else (3.0, 9)
    # In the short form nothing that takes long by itself: ten seconds of the Job controller's, and streams that nobody knows to be dead.
    ways, spells = ((), ()) if full else (("crash once",), ("watches silent",))
    cases = await bench.make_cases(2)
    environ = {"FINETUNE_OPERATOR_NAMESPACE": NAMESPACE, "FINETUNE_TLS_SECRET": TLS_SECRET, "FINETUNE_RESYNC_SECONDS": "5"}
    async with bench.operate(cases, seed=seed, reports=True, **environ) as lane:
        churn = Churn(bench, cases, seed, reports=True, left_out=ways, patience=120.0)
        weather = Weather(lane.proxy, seed, left_out=spells, spell_seconds=(0.3, 1.5), pause_seconds=(0.1, 0.5))
        raging = asyncio.create_task(weather.rage(seconds))
        await churn.turn(seconds, at_once)
        await raging
        assert not churn.faults, "\n".join([*churn.faults, lane.operator.read_log()])
        assert lane.operator.starts == 1
        assert lane.operator.is_alive
        await bench.check_silence(cases, 1.0)
        assert not churn.find_left()
    assert sum(weather.hits.values())
    runs = f"{churn.ended.total()} runs and sweeps in {len(churn.ended)} ways"
    befallen = f"{weather.spells.total()} spells of {len(weather.spells)} kinds befell {weather.hits.total()} calls and events"
    figures.add(29, f"churn under random faults for {seconds:.0f} s", f"{runs}; {befallen}; nothing stuck, nothing left")
