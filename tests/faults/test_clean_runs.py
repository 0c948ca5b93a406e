"""Clean runs through the proxy: what faults are measured against."""

import pytest

from tests.faults.support.bench import Bench
from tests.faults.support.figures import Figures
from tests.faults.support.scenarios import SCENARIOS, Scenario, play_clean

pytestmark = [pytest.mark.cluster, pytest.mark.asyncio(loop_scope="session")]

PHASES = {"complete": "Succeeded", "fail": "Failed", "suspend": "Succeeded", "expire": "Succeeded"}


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda each: each.name)
async def test_clean_run_ends_as_it_should(bench: Bench, scenario: Scenario, figures: Figures) -> None:
    state, calls = await play_clean(bench, scenario)

    phases = [each["status"]["phase"] for each in state["finetunejobs"]]
    assert phases == ([] if scenario.name == "delete" else [PHASES[scenario.name]])
    assert not state["orphans"]
    writes = [str(call.point) for call in calls if call.is_write]
    assert len(writes) == len({call.number for call in calls if call.is_write})
    figures.add(0, f"none: {scenario.name}", f"{len(calls)} calls, of which writes: {', '.join(writes)}")
