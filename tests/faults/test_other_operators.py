"""Another release, other settings, another clock: what the one operator has begun, the next one finishes."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest

from tests.faults.support.bench import Bench, Case
from tests.faults.support.direct import Object
from tests.faults.support.figures import Figures
from tests.faults.support.scenarios import SCENARIOS, measure_clean
from tests.faults.support.side_by_side import run_all
from tests.faults.support.witness import JOBS

pytestmark = [pytest.mark.cluster, pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(600)]

COMPLETE, FAIL, SUSPEND, EXPIRE = SCENARIOS[0], SCENARIOS[1], SCENARIOS[2], SCENARIOS[4]


async def test_an_upgrade_restarts_no_run(bench: Bench, figures: Figures) -> None:
    """The next operator has another trainer image, grace period and namespace settings; what runs, waits or has ended stays as it is."""
    complete, suspend = await measure_clean(bench, COMPLETE), await measure_clean(bench, SUSPEND)
    cases = ended, running, suspended = await bench.make_cases(3)
    running.script.hold = asyncio.Event()
    suspended.script.until_stopped = 1
    async with bench.operate(cases) as lane:
        await asyncio.gather(*(case.create() for case in cases))
        await asyncio.gather(ended.converge(complete.state), running.until_phase("Running"), suspended.until_phase("Running"))
        await suspended.patch(suspend=True)
        await suspended.until_phase("Suspended")
        await lane.stop()
        jobs = _read_jobs(cases)
        before = len(lane.proxy.writes())
        lane.operator.configure(FINETUNE_TRAINER_IMAGE="trainer:next", FINETUNE_TRAINER_GRACE_SECONDS="600", FINETUNE_SIMULATED_GPUS="true")
        await lane.start()
        await asyncio.sleep(3)
        written = lane.proxy.writes()[before:]
        assert _read_jobs(cases) == jobs, "a Job was touched"
        assert not [call for call in written if call.signature != "patch finetunejobs/status"]
        running.script.hold.set()
        await suspended.patch(suspend=False)
        await asyncio.gather(running.until_phase("Succeeded"), suspended.until_phase("Succeeded"))
        for case in cases:
            case.check()
        restarts = [case.body["status"].get("restarts", 0) for case in cases if case.body]
        assert restarts == [0, 0, 1]
        # With a longer grace period than its Job was made for, a run that is resumed gets a new Job; it was not running.
        assert [pod["phase"] for pod in suspended.state["pods"]] == [pod["phase"] for pod in suspend.state["pods"]]
    figures.add(25, "another release's settings (image, grace period)", f"no Job touched, no run restarted; {len(written)} status writes")


def _read_jobs(cases: Sequence[Case]) -> dict[str, Object]:
    """Return what is asked of each Job, by UID. Its status is the Job controller's."""
    return {job["metadata"]["uid"]: job["spec"] for case in cases for job in case.find(JOBS)}


@pytest.mark.parametrize("hours", [1, -1])
async def test_the_clock_is_an_hour_off(bench: Bench, figures: Figures, hours: int) -> None:
    scenarios = (COMPLETE, FAIL, SUSPEND, EXPIRE)
    clean = [await measure_clean(bench, scenario) for scenario in scenarios]
    cases = await bench.make_cases(len(scenarios))
    async with bench.operate(cases, FAULTS_CLOCK_SKEW=str(3600 * hours)):
        await run_all(scenario.play(case) for case, scenario in zip(cases, scenarios, strict=True))
        for case, recording in zip(cases, clean, strict=True):
            await case.converge(recording.state)
            assert _is_stamped(case, timedelta(hours=hours)), "the operator's clock was right: this test shows nothing"
        await bench.check_silence(cases, 2.0)
    figures.add(26, f"the operator's clock {hours:+d} h off", f"{len(cases)} scenarios as in a clean run")


def _is_stamped(case: Case, ahead: timedelta) -> bool:
    """True if the status was written by a clock that is ``ahead``, but for half an hour."""
    assert case.body is not None
    stamps = [datetime.fromisoformat(condition["lastTransitionTime"]) for condition in case.body["status"]["conditions"]]
    return bool(stamps) and all(abs(stamp - datetime.now(UTC) - ahead) < timedelta(minutes=30) for stamp in stamps)


async def test_the_clock_jumps_back_two_hours_in_mid_run(bench: Bench, figures: Figures) -> None:
    (case,) = await bench.make_cases(1)
    clean = await measure_clean(bench, COMPLETE)
    case.script.hold = asyncio.Event()
    async with bench.operate([case], FAULTS_CLOCK_SKEW="3600") as lane:
        await case.create()
        await case.until_phase("Running")
        await lane.stop()
        lane.operator.configure(FAULTS_CLOCK_SKEW="-3600")
        await lane.start()
        case.script.hold.set()
        await case.converge(clean.state)
        assert case.body is not None
        assert 0 <= case.body["status"]["gpuSeconds"] < 600
        await bench.check_silence([case], 2.0)
    figures.add(
        26, "a restart with a clock two hours behind the former one's", "as in a clean run; no count falls, GPU time is the pod's own"
    )
