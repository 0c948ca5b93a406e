"""Reports by the thousand, true and false: what is true arrives, what is false doesn't, and the operator's own work goes on."""

import asyncio
import random
import time
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import aiohttp
import pytest

from tests.faults.support.bench import Bench, Case
from tests.faults.support.figures import Figures
from tests.faults.support.oracle import read_operator_writes
from tests.faults.support.scenarios import SCENARIOS, measure_clean
from tests.faults.support.trainer_reports import Sender, make_sender
from tests.faults.support.witness import FINETUNEJOBS, JOBS
from tests.support.operator_process import NAMESPACE, TLS_SECRET

pytestmark = [pytest.mark.cluster, pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(600)]

SENDERS = 4
CONNECTIONS = 8
"""Of each sender, all used without a pause."""


async def _storm(sender: Sender, until: float, seed: int) -> Counter[tuple[str, int]]:
    """Send without a pause until the loop's clock shows ``until``; return how often each kind met each answer (0: none)."""
    answers: Counter[tuple[str, int]] = Counter()
    chance = random.Random(seed)  # noqa: S311  # guards nothing
    loop = asyncio.get_running_loop()

    async def send_on(session: aiohttp.ClientSession) -> None:
        while loop.time() < until:
            kind, text, token = sender.build_any(chance)
            headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
            try:
                async with session.post(sender.url, data=text, headers=headers) as answer:
                    await answer.read()
                    answers[kind, answer.status] += 1
            except (aiohttp.ClientError, OSError):
                answers[kind, 0] += 1

    connector = aiohttp.TCPConnector(ssl=sender.tls, limit=CONNECTIONS)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=30)) as session:
        await asyncio.gather(*(send_on(session) for _ in range(CONNECTIONS)))
    return answers


async def test_a_storm_of_reports(bench: Bench, figures: Figures, full: bool, seed: int) -> None:
    seconds = 60.0 if full else 12.0
    clean = await measure_clean(bench, SCENARIOS[0])
    *cases, bystander = await bench.make_cases(SENDERS + 1)
    environ = {"FINETUNE_OPERATOR_NAMESPACE": NAMESPACE, "FINETUNE_TLS_SECRET": TLS_SECRET, "FINETUNE_LOG_LEVEL": "WARNING"}
    async with bench.operate([*cases, bystander], reports=True, **environ) as lane:
        senders = await asyncio.gather(*map(make_sender, cases))
        loop = asyncio.get_running_loop()
        since = datetime.now(UTC)
        storm = asyncio.gather(*(_storm(sender, loop.time() + seconds, seed + index) for index, sender in enumerate(senders)))
        await asyncio.sleep(1)
        began = time.monotonic()
        await bystander.create()
        await bystander.until(lambda: bystander.find(JOBS), "the Job of a run created in the storm")
        job_after = time.monotonic() - began
        answers = sum(await storm, Counter[tuple[str, int]]())
        assert lane.operator.starts == 1
        assert lane.operator.is_alive
        writes = read_operator_writes(Path(bench.cluster.audit_log), {case.namespace for case in cases}, since)
        for case, sender in zip(cases, senders, strict=True):
            _check(case, sender)
            case.script.hold.set()  # type: ignore[union-attr]  # every sender holds its pod
        await asyncio.gather(*(case.until_phase("Succeeded") for case in cases), bystander.converge(clean.state))
        await bench.check_silence([*cases, bystander], 2.0, grace=3.0)
    taken = {kind for (kind, status), count in answers.items() if status == 202 and count}
    # A step is old or new by when it arrives, so that of those some may be new.
    assert taken <= {"true", "an old step"}
    assert "true" in taken
    assert len(writes) <= SENDERS * (seconds / 5 + 2)
    sent = sum(answers.values())
    statuses = Counter({status: sum(count for (_, each), count in answers.items() if each == status) for _, status in answers})
    words = ", ".join(f"{count} × {status or 'no answer'}" for status, count in sorted(statuses.items()))
    figures.add(
        19,
        f"NaN, a megabyte, old steps, forged, of another run, and true: without a pause for {seconds:.0f} s",
        f"{sent / seconds:.0f} a second: {words}; {len(writes)} status writes for {SENDERS} runs; Job of a new run after {job_after:.1f} s",
    )


def _check(case: Case, sender: Sender) -> None:
    """What is in status was sent, and steps never went back. (The played trainer's last word is of a run of ten steps.)"""
    case.check()
    steps = [
        sighting.body["status"]["progress"]["step"]
        for sighting in case.bench.witness.history[case.namespace]
        if sighting.path == FINETUNEJOBS and "progress" in sighting.body.get("status", {})
    ]
    assert steps
    assert steps == sorted(steps)
    assert steps[-1] <= sender.step
