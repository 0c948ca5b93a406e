"""Churn: runs and sweeps that come, go one of several ways to their end, and are deleted, many at once, for as long as is wanted."""

import asyncio
import json
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

import aiohttp

from finetune_api.exit_codes import ExitCode
from finetune_api.names import API_VERSION, KIND, LABEL_JOB_UID, LABEL_SWEEP_NAME, PLURAL, SWEEP_KIND, SWEEP_PLURAL
from tests.faults.support.bench import Bench, Case
from tests.faults.support.direct import Object, Refused
from tests.faults.support.node import Script
from tests.faults.support.oracle import find_broken_promises
from tests.faults.support.trainer_reports import build_sender
from tests.faults.support.witness import FINETUNEJOBS, JOBS, PODS, Sighting

URIS: Final = {"model": {"uri": "hf://org/base"}, "dataset": {"uri": "s3://bucket/rows.jsonl"}, "output": {"uri": "s3://bucket/out"}}
REPORTS: Final = 5
"""Sent by a trainer that reports, half a second apart."""


@dataclass(slots=True)
class Churn:
    """Runs in the namespaces of ``cases``; the played node carries them out."""

    bench: Bench
    cases: Sequence[Case]
    seed: int
    reports: bool = False
    """Whether the operator takes reports."""
    left_out: tuple[str, ...] = ()
    """Ways that nobody goes."""
    patience: float = 300.0
    """Seconds that a step may take: what silent watches and lost events cost is mended by the resync."""
    ended: Counter[str] = field(default_factory=Counter)
    """How many went each way to its end, with nothing left and no promise broken."""
    faults: list[str] = field(default_factory=list)
    """What got stuck, what was left, and what happened that must never happen."""
    report_answers: Counter[int] = field(default_factory=Counter)
    """Answers to reports, by status; 0 is none."""
    _created: int = 0

    async def turn(self, seconds: float, workers: int) -> None:
        """Let ``workers`` start one run or sweep after the other for so long, and wait until all have ended."""
        until = asyncio.get_running_loop().time() + seconds
        chance = random.Random(self.seed)  # noqa: S311  # chooses ways, guards nothing
        ways = self._ways()
        deck: list[str] = []

        def draw() -> str:
            if not deck:
                deck.extend(chance.sample(sorted(ways), len(ways)))
            return deck.pop()

        async def work() -> None:
            while asyncio.get_running_loop().time() < until:
                way = draw()
                await self._play(way, ways[way])

        async with asyncio.TaskGroup() as group:
            for _ in range(workers):
                group.create_task(work())

    def _ways(self) -> dict[str, Callable[["_Run"], Awaitable[None]]]:
        ways = {
            "complete": _complete,
            "fail": _fail,
            "crash once": _crash_once,
            "suspend and resume": _suspend,
            "lose the pod": _lose_pod,
            "delete while it runs": _delete_running,
            "delete at once": _delete_at_once,
            "expire": _expire,
            "sweep": _sweep,
        }
        if self.reports:
            ways["report"] = _report
        return {name: play for name, play in ways.items() if name not in self.left_out}

    async def _play(self, way: str, play: Callable[["_Run"], Awaitable[None]]) -> None:
        self._created += 1
        case = self.cases[self._created % len(self.cases)]
        run = _Run(self, case, f"run-{self._created:06}")
        try:
            await play(run)
            await run.remove()
            run.check()
        except (AssertionError, Refused, aiohttp.ClientError, TimeoutError) as error:
            self.faults.append(f"{datetime.now(UTC):%H:%M:%S} {way}, {run.name} in {case.namespace}: {type(error).__name__}: {error}")
        else:
            self.ended[way] += 1
        finally:
            run.forget()

    async def make_residents(self, count: int) -> dict[str, str]:
        """Create suspended runs that stay, and return their resourceVersions by name once nothing is written to them any more."""
        names = [f"resident-{index:04}" for index in range(count)]
        runs = [_Run(self, self.cases[index % len(self.cases)], name) for index, name in enumerate(names)]
        await asyncio.gather(*(run.create(suspend=True) for run in runs))
        await asyncio.gather(*(run.until_phase("Suspended") for run in runs))
        await asyncio.gather(*(case.settle() for case in self.cases))
        return self.read_residents()

    def read_residents(self) -> dict[str, str]:
        """Return the resourceVersion of each run that stays, by name."""
        found = [body["metadata"] for case in self.cases for body in case.find(FINETUNEJOBS)]
        return {each["name"]: each["resourceVersion"] for each in found if each["name"].startswith("resident-")}

    def find_left(self) -> list[str]:
        """Return what exists beside the runs that stay and what is theirs."""
        sightings = [each for case in self.cases for each in self.bench.witness.current[case.namespace].values()]
        stay = {each.uid for each in sightings if each.body["metadata"]["name"].startswith("resident-")}
        return [
            f"{each.path.rsplit('/', 1)[1]} {each.body['metadata']['name']}"
            for each in sightings
            if each.uid not in stay and each.body["metadata"].get("labels", {}).get(LABEL_JOB_UID) not in stay
        ]


@dataclass(slots=True)
class _Run:
    """One run, or one sweep with its runs."""

    churn: Churn
    case: Case
    name: str

    @property
    def _path(self) -> str:
        return f"/apis/{API_VERSION}/namespaces/{self.case.namespace}"

    def _is_ours(self, sighting: Sighting) -> bool:
        return sighting.body["metadata"]["name"].startswith(self.name)

    @property
    def history(self) -> list[Sighting]:
        """Every version of its objects."""
        return [each for each in self.case.bench.witness.history[self.case.namespace] if self._is_ours(each)]

    def find(self, path: str) -> list[Object]:
        """Return what exists of it in a collection."""
        return [body for body in self.case.find(path) if body["metadata"]["name"].startswith(self.name)]

    @property
    def phase(self) -> str | None:
        """Its phase as the witness saw it last."""
        bodies = self.find(FINETUNEJOBS)
        return bodies[0].get("status", {}).get("phase") if bodies else None

    async def create(self, script: Script | None = None, **spec: object) -> None:
        """Create the FineTuneJob; its pods go by ``script``."""
        self.case.bench.node.scripts_of_runs[self.case.namespace, self.name] = script or Script()
        body = {"apiVersion": API_VERSION, "kind": KIND, "metadata": {"name": self.name}, "spec": {**URIS, **spec}}
        await self.case.bench.api.call("POST", f"{self._path}/{PLURAL}", body)

    async def patch(self, **spec: object) -> None:
        """Change the spec as its user would."""
        await self.case.bench.api.call("PATCH", f"{self._path}/{PLURAL}/{self.name}", {"spec": spec})

    async def until(self, condition: Callable[[], object], words: str) -> None:
        """Wait until ``condition`` holds."""
        await self.case.bench.witness.until(condition, self.churn.patience, lambda: f"{words}; there is {self.describe()}")

    async def until_phase(self, phase: str) -> None:
        """Wait until the phase is ``phase``."""
        await self.until(lambda: self.phase == phase, f"phase {phase}")

    def describe(self) -> str:
        """Say what is there of it."""
        statuses = {path.rsplit("/", 1)[1]: [body.get("status") for body in self.find(path)] for path in (FINETUNEJOBS, JOBS, PODS)}
        return json.dumps(statuses)

    async def delete(self, plural: str = PLURAL) -> None:
        """Delete it; one that is gone is fine."""
        try:
            await self.case.bench.api.call("DELETE", f"{self._path}/{plural}/{self.name}")
        except Refused as refusal:
            if refusal.status != 404:
                raise

    async def remove(self) -> None:
        """Delete it, and wait until nothing of it is left."""
        await self.delete()
        current = self.case.bench.witness.current[self.case.namespace]
        await self.until(lambda: not any(map(self._is_ours, current.values())), "nothing left")

    def check(self) -> None:
        """Fail if something happened to it that must never happen."""
        broken = find_broken_promises(self.history)
        assert not broken, broken

    def forget(self) -> None:
        """Drop what was kept of it."""
        witness = self.case.bench.witness
        witness.history[self.case.namespace][:] = [each for each in witness.history[self.case.namespace] if not self._is_ours(each)]
        self.case.bench.node.scripts_of_runs.pop((self.case.namespace, self.name), None)


async def _complete(run: _Run) -> None:
    await run.create()
    await run.until_phase("Succeeded")


async def _fail(run: _Run) -> None:
    await run.create(Script(exit_codes=(ExitCode.DATA_INVALID,)))
    await run.until_phase("Failed")


async def _crash_once(run: _Run) -> None:
    await run.create(Script(exit_codes=(ExitCode.CRASHED, 0)))
    await run.until_phase("Succeeded")


async def _suspend(run: _Run) -> None:
    await run.create(Script(until_stopped=1))
    await run.until_phase("Running")
    await run.patch(suspend=True)
    await run.until_phase("Suspended")
    await run.patch(suspend=False)
    await run.until_phase("Succeeded")


async def _lose_pod(run: _Run) -> None:
    await run.create(Script(until_stopped=1))
    await run.until_phase("Running")
    for pod in run.find(PODS):
        await run.case.bench.api.call("DELETE", f"/api/v1/namespaces/{run.case.namespace}/pods/{pod['metadata']['name']}")
    await run.until_phase("Succeeded")


async def _delete_running(run: _Run) -> None:
    await run.create(Script(until_stopped=1))
    await run.until_phase("Running")


async def _delete_at_once(run: _Run) -> None:
    await run.create()
    await run.delete()


async def _expire(run: _Run) -> None:
    await run.create(ttlSecondsAfterFinished=0)
    await run.until_phase("Succeeded")
    await run.until(lambda: not run.find(JOBS), "the Job has expired")


async def _report(run: _Run) -> None:
    script = Script(hold=asyncio.Event())
    await run.create(script)
    await run.until_phase("Running")
    await run.until(lambda: run.find(JOBS) and run.find(PODS), "a pod")
    sender = await build_sender(run.case.bench.api, run.find(JOBS)[0], run.find(PODS)[0])
    headers = {"Authorization": f"Bearer {sender.token}", "Content-Type": "application/json"}
    timeout = aiohttp.ClientTimeout(total=20)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=sender.tls), timeout=timeout) as session:
        for step in range(1, REPORTS + 1):
            try:
                async with session.post(sender.url, data=json.dumps(sender.build(step)), headers=headers) as answer:
                    run.churn.report_answers[answer.status] += 1
            except (aiohttp.ClientError, OSError, TimeoutError):
                run.churn.report_answers[0] += 1
            await asyncio.sleep(0.5)
    assert script.hold is not None
    script.hold.set()
    await run.until_phase("Succeeded")


async def _sweep(run: _Run) -> None:
    api, path = run.case.bench.api, f"/apis/{API_VERSION}/namespaces/{run.case.namespace}/{SWEEP_PLURAL}"
    parameters = [{"path": "training.learningRate", "values": [1e-4, 2e-4, 3e-4]}]
    spec = {"template": {"spec": URIS}, "parameters": parameters, "parallelism": 2, "objective": {"metric": "loss", "goal": "minimize"}}
    body = {"apiVersion": API_VERSION, "kind": SWEEP_KIND, "metadata": {"name": run.name}, "spec": spec}
    await api.call("POST", path, body)
    loop = asyncio.get_running_loop()
    deadline = loop.time() + 2 * run.churn.patience
    while (status := (await api.call("GET", f"{path}/{run.name}")).get("status", {})).get("phase") != "Succeeded":
        assert loop.time() < deadline, f"not succeeded: {json.dumps(status)}"
        await asyncio.sleep(1)
    trials = run.find(FINETUNEJOBS)
    assert len(trials) == 3, [each["metadata"]["name"] for each in trials]
    assert all(each["metadata"]["labels"][LABEL_SWEEP_NAME] == run.name for each in trials)
    await run.delete(SWEEP_PLURAL)
