"""Clean runs through the proxy: what faults are measured against."""

import pytest

from tests.faults.support.bench import Bench
from tests.faults.support.figures import Figures
from tests.faults.support.scenarios import SCENARIOS, Scenario, measure_clean

pytestmark = [pytest.mark.cluster, pytest.mark.asyncio(loop_scope="session")]

PHASES = {"complete": "Succeeded", "fail": "Failed", "suspend": "Succeeded", "expire": "Succeeded"}


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda each: each.name)
async def test_clean_run_ends_as_it_should(bench: Bench, scenario: Scenario, figures: Figures) -> None:
    clean = await measure_clean(bench, scenario)

    phases = [each["status"]["phase"] for each in clean.state["finetunejobs"]]
    assert phases == ([] if scenario.name == "delete" else [PHASES[scenario.name]])
    assert not clean.state["orphans"]
    writes = [call.signature for call in clean.calls if call.is_write]
    counts = ", ".join(f"{writes.count(signature)} × {signature}" for signature in sorted(set(writes)))
    figures.add(0, f"none: {scenario.name}", f"{len(writes)} writes: {counts}")
