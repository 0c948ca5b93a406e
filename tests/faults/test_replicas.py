"""Two replicas of the operator: one leads, and whatever becomes of it the other takes over, once, and alone."""

import asyncio
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tests.faults.support.bench import Bench, Case, Lane
from tests.faults.support.calls import Call
from tests.faults.support.faults import After, Rule
from tests.faults.support.figures import Figures
from tests.faults.support.scenarios import SCENARIOS, measure_clean
from tests.faults.support.trainer_reports import make_sender, send
from tests.faults.support.witness import FINETUNEJOBS, JOBS
from tests.support.operator_process import NAMESPACE, RELEASE, TLS_SECRET

pytestmark = [pytest.mark.cluster, pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(600)]

LEASE = f"/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases/{RELEASE}"
ENVIRON = {
    "FINETUNE_OPERATOR_NAMESPACE": NAMESPACE,
    "FINETUNE_TLS_SECRET": TLS_SECRET,
    "FINETUNE_LEASE": RELEASE,
    "POD_IP": "127.0.0.1",
}


@asynccontextmanager
async def two_replicas(bench: Bench, cases: list[Case]) -> AsyncIterator[tuple[Lane, Lane]]:
    """Run two replicas; the first of the two leads."""
    async with (
        bench.operate(cases, reports=True, **ENVIRON, POD_NAME="first") as first,
        bench.operate(cases, reports=True, replica="-second", start=False, **ENVIRON, POD_NAME="second") as second,
    ):
        await _until_leads(bench, "first")
        await second.start()
        yield first, second


async def _until_leads(bench: Bench, name: str, seconds: float = 60.0) -> None:
    async with asyncio.timeout(seconds):
        while await _read_leader(bench) != name:  # noqa: ASYNC110  # nothing tells
            await asyncio.sleep(0.05)


async def _read_leader(bench: Bench) -> str:
    leases = await bench.api.call("GET", LEASE.rpartition("/")[0])
    return next((str(item["spec"].get("holderIdentity")) for item in leases["items"] if item["metadata"]["name"] == RELEASE), "")


def _writes(lane: Lane, since: int = 0) -> list[Call]:
    """Return the replica's writes to anything but the Lease, and the Secret that all share."""
    return [call for call in lane.proxy.writes()[since:] if not call.signature.endswith((" leases", " secrets"))]


@pytest.mark.parametrize(("how", "budget"), [("killed", 15.0), ("told to stop", 3.0), ("told to stop while it renews the Lease", 3.0)])
async def test_another_takes_over(bench: Bench, figures: Figures, how: str, budget: float) -> None:
    clean = await measure_clean(bench, SCENARIOS[0])
    cases = running, created = await bench.make_cases(2)
    running.script.hold = asyncio.Event()
    async with two_replicas(bench, cases) as (first, second):
        await running.create()
        await running.until_phase("Running")
        assert not _writes(second), "a follower writes nothing"
        if how.endswith("renews the Lease"):
            await _stop_amid_a_renewal(first)
        else:
            first.operator.send(signal.SIGKILL if how == "killed" else signal.SIGTERM)
        began = time.monotonic()
        await created.create()
        await created.until(lambda: created.find(JOBS), "the Job of a run created in between")
        took = time.monotonic() - began
        running.script.hold.set()
        await asyncio.gather(running.converge(clean.state), created.converge(clean.state))
        await first.operator.wait_for_end()
        last = next(call for call in reversed(first.proxy.calls) if call.is_write)
        assert (last.resource == "leases" and last.outcome == ["200"]) or how == "killed", "the Lease was given up, by the last write"
        assert first.operator.exit_code == (-signal.SIGKILL if how == "killed" else 0)
        await bench.check_silence(cases, 2.0, grace=3.0)
    figures.add(
        12,
        f"the leading replica is {how}",
        f"a run created in the same moment has its Job from the other {took:.1f} s after",
        took=took,
        budget=budget,
    )


async def _stop_amid_a_renewal(lane: Lane) -> None:
    """Tell the replica to stop when its renewal of the Lease has taken effect, of which it never hears."""
    told = asyncio.Event()

    def stop() -> None:
        lane.operator.send(signal.SIGTERM)
        told.set()

    lane.proxy.add(Rule(After(stop), "patch leases", times=1))
    async with asyncio.timeout(30):
        await told.wait()


async def test_a_leader_that_was_paused_writes_nothing_more(bench: Bench, figures: Figures, full: bool) -> None:
    """It is stopped in the middle of a burst of work, and goes on when another has led for long."""
    seconds = 60.0 if full else 14.0
    clean = await measure_clean(bench, SCENARIOS[0])
    cases = await bench.make_cases(8)
    async with two_replicas(bench, cases) as (first, second):
        creations = asyncio.gather(*(case.create() for case in cases))
        await cases[0].until(lambda: len(_writes(first)) >= 3, "the first replica is at work")
        first.operator.send(signal.SIGSTOP)
        await creations
        await asyncio.sleep(0.5)  # what it had sent is answered by now
        before = len(first.proxy.writes())
        unfinished = sum(case.phase != "Succeeded" for case in cases)
        await asyncio.sleep(seconds)
        assert await _read_leader(bench) == "second"
        first.operator.send(signal.SIGCONT)
        await asyncio.gather(*(case.converge(clean.state) for case in cases))
        await asyncio.sleep(3)
        late = _writes(first, before)
        for case in cases:
            case.check()
        await bench.check_silence(cases, 2.0, grace=3.0)
        assert first.operator.is_alive, "it follows from then on"
        assert await _read_leader(bench) == "second"
        assert _writes(second)
    assert unfinished, "nothing was left to do: this test shows nothing"
    assert late == []
    figures.add(
        13, f"the leading replica is paused for {seconds:.0f} s at work", f"{unfinished} runs finished by the other; no write after"
    )


async def test_reports_arrive_by_way_of_either(bench: Bench, figures: Figures) -> None:
    (case,) = await bench.make_cases(1)
    async with two_replicas(bench, [case]) as (first, second):
        sender = await make_sender(case)
        answers = []
        for step, lane in ((1, first), (2, second), (3, first), (4, second)):
            answers.append(await send(sender, step, lane.operator.report_port))
            await asyncio.sleep(1.1)  # below the rate that one pod may send at
        await case.until(lambda: (case.body or {})["status"].get("progress", {}).get("step") == 4, "the last report is in status")
        forged = await send(sender, 5, second.operator.report_port, token="forged")
        assert not _writes(second), "the leader alone writes"
        steps = [
            sighting.body["status"]["progress"]["step"]
            for sighting in bench.witness.history[case.namespace]
            if sighting.path == FINETUNEJOBS and "progress" in sighting.body.get("status", {})
        ]
        assert steps == sorted(steps)
        assert case.script.hold is not None
        case.script.hold.set()
        await case.until_phase("Succeeded")
    assert answers == [202] * 4
    assert forged == 401
    figures.add(12, "reports sent to the leading replica and to the other in turns", "all taken; the leader alone writes them")
