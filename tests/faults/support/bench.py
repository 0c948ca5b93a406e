"""The test bench: one API server, and as many operators behind proxies as a test wants, each in namespaces of its own."""

import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from finetune_api.names import API_VERSION, KIND, PLURAL
from finetune_devcluster import Cluster
from tests.faults.support.calls import Call
from tests.faults.support.direct import DirectApi, Object, Refused
from tests.faults.support.node import PlayedNode, Script
from tests.faults.support.operator_process import OperatorProcess
from tests.faults.support.oracle import build_state, find_broken_promises, read_operator_writes
from tests.faults.support.proxy import FaultProxy
from tests.faults.support.witness import FINETUNEJOBS, Witness

NAME = "run"
WATCHED = ("finetunejobs", "finetunesweeps", "jobs", "pods", "events")


@dataclass(slots=True)
class Lane:
    """An operator behind its proxy."""

    proxy: FaultProxy
    operator: OperatorProcess
    namespaces: tuple[str, ...]

    async def start(self) -> None:
        """Start the operator and wait until it is ready and watches."""
        seen = len(self.proxy.calls)
        self.operator.start()
        await self.operator.wait_until_ready()
        wanted = len(WATCHED) * len(self.namespaces)
        async with asyncio.timeout(30):
            while sum(call.verb == "watch" for call in self.proxy.calls[seen:]) < wanted:  # noqa: ASYNC110  # nothing tells
                await asyncio.sleep(0.02)

    async def stop(self) -> None:
        """Kill the operator."""
        self.operator.kill()
        await self.operator.wait_for_end()

    async def restart(self) -> None:
        """Kill the operator and start it anew."""
        await self.stop()
        await self.start()

    @asynccontextmanager
    async def kept_alive(self) -> AsyncIterator[None]:
        """Start the operator, and start it again whenever it ends, as a kubelet would."""
        keeper = asyncio.create_task(self._keep_alive())
        try:
            yield
        finally:
            keeper.cancel()

    async def _keep_alive(self) -> None:
        while True:
            if not self.operator.is_alive:
                self.operator.start()
            await asyncio.sleep(0.02)


@dataclass(slots=True)
class Case:
    """One FineTuneJob in a namespace of its own."""

    bench: "Bench"
    namespace: str
    converged: datetime | None = None
    patience: float = 60.0
    """Seconds that a step may take."""

    @property
    def script(self) -> Script:
        """How the pods of the namespace go."""
        return self.bench.node.scripts[self.namespace]

    @property
    def path(self) -> str:
        """Path of the FineTuneJob."""
        return f"/apis/{API_VERSION}/namespaces/{self.namespace}/{PLURAL}/{NAME}"

    async def create(self, **spec: object) -> Object:
        """Create the FineTuneJob."""
        uris = {"model": {"uri": "hf://org/base"}, "dataset": {"uri": "s3://bucket/rows.jsonl"}, "output": {"uri": "s3://bucket/out"}}
        body = {"apiVersion": API_VERSION, "kind": KIND, "metadata": {"name": NAME}, "spec": {**uris, **spec}}
        return await self.bench.api.call("POST", self.path.rsplit("/", 1)[0], body)

    async def patch(self, **spec: object) -> None:
        """Change the FineTuneJob's spec as its user would."""
        await self.bench.api.call("PATCH", self.path, {"spec": spec})

    async def delete(self) -> None:
        """Delete the FineTuneJob."""
        await self.bench.api.call("DELETE", self.path)

    @property
    def body(self) -> Object | None:
        """The FineTuneJob as the witness saw it last."""
        found = self.bench.witness.find(self.namespace, FINETUNEJOBS)
        return found[0] if found else None

    @property
    def phase(self) -> str | None:
        """Its phase."""
        return None if self.body is None else self.body.get("status", {}).get("phase")

    def find(self, path: str) -> list[Object]:
        """Return the objects of a collection."""
        return self.bench.witness.find(self.namespace, path)

    async def until_phase(self, phase: str) -> None:
        """Wait until the phase is ``phase``."""
        await self.until(lambda: self.phase == phase, f"phase {phase}")

    async def until(self, condition: Callable[[], object], words: str) -> None:
        """Wait until ``condition`` holds; where it doesn't, fail with what is there."""
        await self.bench.witness.until(condition, self.patience, lambda: f"{words}; there is {json.dumps(self.state, indent=1)}")

    @property
    def state(self) -> Object:
        """The namespace's state without names and times."""
        return build_state(self.bench.witness.current[self.namespace].values(), self.bench.witness.history[self.namespace])

    async def converge(self, expected: Object, *, jobs_of_an_attempt: int = 1) -> float:
        """Wait until the state is ``expected``, check that the history broke no promise, and return how long it took, in seconds."""
        began = time.monotonic()
        await self.until(lambda: self.state == expected, f"the clean run's state {json.dumps(expected, indent=1)}")
        self.converged = datetime.now(UTC)
        self.check(jobs_of_an_attempt=jobs_of_an_attempt)
        return time.monotonic() - began

    def check(self, *, jobs_of_an_attempt: int = 1) -> None:
        """Fail if something happened that must never happen."""
        broken = find_broken_promises(self.bench.witness.history[self.namespace], jobs_of_an_attempt=jobs_of_an_attempt)
        assert not broken, broken

    async def settle(self, quiet: float = 2.0, seconds: float = 60.0) -> Object:
        """Wait until nothing has changed for ``quiet`` seconds, and return the state."""
        deadline = time.monotonic() + seconds
        history = self.bench.witness.history[self.namespace]
        while True:
            before = len(history)
            await asyncio.sleep(quiet)
            if len(history) == before:
                return self.state
            assert time.monotonic() < deadline, f"no rest within {seconds} s: {self.state}"


@dataclass(frozen=True, slots=True)
class Recording:
    """A clean run."""

    state: Object
    """The state at its end."""
    calls: list[Call]
    """The operator's calls, from its start on."""
    watch_events: list[tuple[str, str | None, str, str]]
    """What its watches were sent: see :attr:`FaultProxy.watch_events`."""


class Bench:
    """One API server with a witness and a played node, shared by all cases."""

    def __init__(self, cluster: Cluster, kubeconfig: Path, api: DirectApi, witness: Witness, node: PlayedNode, folder: Path) -> None:
        self.cluster = cluster
        self._kubeconfig = kubeconfig
        self.api = api
        self.witness = witness
        self.node = node
        self.folder = folder
        self.recordings: dict[str, Recording] = {}
        """The clean run of each scenario, by its name."""

    async def make_cases(self, count: int) -> list[Case]:
        """Make ``count`` namespaces in which pods can be made."""
        return list(await asyncio.gather(*(self._make_case() for _ in range(count))))

    async def _make_case(self) -> Case:
        namespace = f"fault-{uuid.uuid4().hex[:10]}"
        await self.api.call("POST", "/api/v1/namespaces", {"metadata": {"name": namespace}})
        async with asyncio.timeout(30):
            while True:
                try:
                    await self.api.call("GET", f"/api/v1/namespaces/{namespace}/serviceaccounts/default")
                except Refused:
                    await asyncio.sleep(0.05)
                else:
                    return Case(self, namespace)

    @asynccontextmanager
    async def operate(
        self, cases: Sequence[Case], *, seed: int = 0, start: bool = True, reports: bool = False, replica: str = "", **environ: str
    ) -> AsyncIterator[Lane]:
        """Run an operator for ``cases`` behind a proxy; at the end it is killed and the namespaces are asked to go.

        With ``reports`` it has its receiver. A ``replica`` runs beside another operator, and leaves the namespaces alone.
        """
        namespaces = tuple(case.namespace for case in cases)
        folder = self.folder / f"{namespaces[0]}{replica}"
        folder.mkdir()
        async with FaultProxy(self._kubeconfig, folder, seed=seed) as proxy:
            operator = OperatorProcess(proxy.kubeconfig, namespaces, folder / "operator.log", **environ)
            if reports:
                operator.configure(FINETUNE_REPORT_SERVICE=f"localhost:{operator.report_port}")
            lane = Lane(proxy, operator, namespaces)
            try:
                if start:
                    await lane.start()
                yield lane
            finally:
                lane.operator.kill()
                await lane.operator.wait_for_end()
        for namespace in () if replica else namespaces:
            await self.api.call("DELETE", f"/api/v1/namespaces/{namespace}")

    async def check_silence(self, cases: Sequence[Case], seconds: float, grace: float = 1.0) -> None:
        """Let the operator idle; fail if it goes on writing after the end.

        A machine that is busy with something else brings a straggler later than ``grace`` seconds after the end: an Event, which follows
        the status that it speaks of, or the second try of a call whose reply was lost, which is refused. So a case may have one of each,
        and ``seconds`` without any write have to follow.
        """
        now = datetime.now(UTC)
        since = {case.namespace: (case.converged or now) + timedelta(seconds=grace) for case in cases}
        quiet_from = max(*since.values(), now)
        while True:
            await asyncio.sleep(max(0.0, (quiet_from - datetime.now(UTC)).total_seconds()) + seconds)
            until = datetime.now(UTC)
            late = []
            for case in cases:
                writes = read_operator_writes(Path(self.cluster.audit_log), {case.namespace}, since[case.namespace])
                events = [write for write in writes if write.startswith("create events/")]
                assert len(events) <= 1, f"Events in an idle time: {events}"
                refused = [write for write in writes if write.endswith(" 409")]
                assert len(writes) == len(events) + len(refused), f"writes in an idle time: {writes}"
                assert len(refused) <= 1, f"writes in an idle time: {writes}"
                late += read_operator_writes(Path(self.cluster.audit_log), {case.namespace}, max(quiet_from, since[case.namespace]))
            if not late:
                return
            quiet_from = until
