"""Churn under random faults for an hour: does anything grow, get stuck, or stay behind?

    make soak                # an hour
    make soak MINUTES=5

Runs and sweeps are created, suspended, resumed, crashed, failed, expired and deleted in every order by several users at once, on a real
control plane with a played node. Between operator and API server stands the fault proxy of tests/faults. Meanwhile the operator's
process is looked at from outside: memory, open files, threads, and tasks of its event loop. At the end every run must have gone its way,
nothing may be left, no promise broken, what nobody touched must be untouched, and the operator must be silent.
"""

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
from harness import Figures, OperatorProcess, describe_machine, save
from prometheus_client.parser import text_string_to_metric_families

from finetune_devcluster import Cluster
from tests.faults.support.bench import Bench
from tests.faults.support.churn import Churn
from tests.faults.support.direct import DirectApi
from tests.faults.support.node import PlayedNode
from tests.faults.support.proxy import FaultProxy
from tests.faults.support.weather import Weather
from tests.faults.support.witness import Witness
from tests.support.crds import install_crds
from tests.support.operator_process import NAMESPACE, TLS_SECRET, install_rights, write_kubeconfig

MOST_MINUTES = 110
"""The operator's token lasts two hours."""
SAMPLE_SECONDS = 10.0
RESYNC_SECONDS = 60
"""Events that a fault swallowed are noticed by then; 300 is the default."""
WARM_UP = 0.1
"""Share of the time that slopes leave out."""
SILENCE_SECONDS = 20.0
MEASURED = ("MiB", "open files", "threads", "tasks")

Sample = dict[str, float]


@dataclass(slots=True)
class Observer:
    """Looks at the operator's process, and starts it again if it ends, as a kubelet would."""

    proxy: FaultProxy
    log: Path
    operator: OperatorProcess = field(init=False)
    began: float = field(default_factory=time.monotonic)
    starts: int = 0
    samples: list[Sample] = field(default_factory=list)
    """One for each look, since the process was last started."""
    results: Counter[str] = field(default_factory=Counter)
    """Reconciliations by result, as of the last look."""
    longest_silence: float = 0.0
    """Seconds that the metrics page took at the most."""

    def start(self) -> None:
        environ = {"FINETUNE_OPERATOR_NAMESPACE": NAMESPACE, "FINETUNE_TLS_SECRET": TLS_SECRET}
        self.operator = OperatorProcess(self.proxy.kubeconfig, self.log, FINETUNE_RESYNC_SECONDS=str(RESYNC_SECONDS), **environ)
        self.starts += 1
        self.samples.clear()

    async def look_forever(self) -> None:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30)) as session:
            while True:
                await asyncio.sleep(SAMPLE_SECONDS)
                if not self.operator.is_alive:
                    self.start()
                    await self.operator.wait_until_ready()
                else:
                    await self._look(session)

    async def _look(self, session: aiohttp.ClientSession) -> None:
        asked = time.monotonic()
        async with session.get(f"http://127.0.0.1:{self.operator.health_port}/metrics") as answer:
            text = await answer.text()
        self.longest_silence = max(self.longest_silence, time.monotonic() - asked)
        process = Path(f"/proc/{self.operator.pid}")
        status = dict(line.split(":", 1) for line in (process / "status").read_text().splitlines())
        samples = [each for family in text_string_to_metric_families(text) for each in family.samples]
        self.results = Counter()
        for each in samples:
            if each.name == "finetune_reconcile_seconds_count":
                self.results[each.labels["result"]] += int(each.value)
        self.samples.append(
            {
                "seconds": time.monotonic() - self.began,
                "MiB": int(status["VmRSS"].split()[0]) / 1024,
                "open files": float(len(list((process / "fd").iterdir()))),
                "threads": float(status["Threads"]),
                "tasks": next(each.value for each in samples if each.name == "finetune_event_loop_tasks"),
                "queue": sum(each.value for each in samples if each.name == "finetune_workqueue_depth"),
                "CPU s": self.operator.cpu_seconds(),
            }
        )


@asynccontextmanager
async def open_soak(scratch: Path, seed: int) -> AsyncIterator[tuple[Bench, FaultProxy]]:
    with Cluster.up(f"soak-{scratch.name[-8:].lower().replace('_', 'x')}", state_root=scratch / "cluster", ephemeral=True) as cluster:
        install_crds(cluster)
        install_rights(cluster)
        kubeconfig = write_kubeconfig(cluster, scratch / "operator.kubeconfig")
        async with (
            DirectApi(Path(cluster.kubeconfig)) as api,
            Witness(api) as witness,
            PlayedNode(api, witness) as node,
            FaultProxy(kubeconfig, scratch, seed=seed) as proxy,
        ):
            yield Bench(cluster, kubeconfig, api, witness, node, scratch), proxy


async def measure(options: argparse.Namespace) -> list[str]:
    """Return what is wrong; the figures are kept."""
    print(", ".join(f"{name}: {value}" for name, value in describe_machine().items()))
    seconds = 60.0 * options.minutes
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        async with open_soak(scratch, options.seed) as (bench, proxy):
            cases = await bench.make_cases(options.namespaces)
            observer = Observer(proxy, scratch / "operator.log")
            observer.start()
            try:
                await observer.operator.wait_until_ready()
                churn = Churn(bench, cases, options.seed, reports=True)
                looking = asyncio.create_task(observer.look_forever())
                residents = await churn.make_residents(options.residents)
                weather = Weather(proxy, options.seed)
                telling = asyncio.create_task(_tell_forever(observer, churn, weather))
                raging = asyncio.create_task(weather.rage(seconds))
                try:
                    await churn.turn(seconds, options.workers)
                    await raging
                    wrong = [*churn.faults, *(f"left: {each}" for each in churn.find_left())]
                    wrong += await _find_noise(bench, churn)
                    if churn.read_residents() != residents:
                        wrong.append("runs that nobody touched were written to")
                finally:
                    for task in (looking, telling, raging):
                        task.cancel()
                    with suppress(asyncio.CancelledError):
                        await looking
                if observer.starts > 1:
                    wrong.append(f"the operator ended {observer.starts - 1} times by itself")
                if observer.results["error"]:
                    wrong.append(f"{observer.results['error']} reconciliations ended in a fault of the operator's own")
            finally:
                observer.operator.stop()
                (Path.cwd() / "soak-operator.log").write_bytes(observer.log.read_bytes()[-1_000_000:]) if options.keep_log else None
    _keep(options, observer, churn, weather, wrong)
    return wrong


async def _find_noise(bench: Bench, churn: Churn) -> list[str]:
    try:
        await bench.check_silence(churn.cases, SILENCE_SECONDS, grace=5.0)
    except AssertionError as error:
        return [str(error)]
    return []


async def _tell_forever(observer: Observer, churn: Churn, weather: Weather) -> None:
    while True:
        await asyncio.sleep(60)
        last = ", ".join(f"{name} {value:.1f}" for name, value in observer.samples[-1].items()) if observer.samples else "no sample"
        print(f"{last}; {churn.ended.total()} ended, {weather.spells.total()} spells, {len(churn.faults)} wrong", flush=True)


def compute_slope(samples: Sequence[Sample], name: str) -> float:
    """Return by how much a figure grows in an hour: the least squares' line."""
    if len(samples) < 2:
        return 0.0
    return 3600 * statistics.linear_regression([each["seconds"] for each in samples], [each[name] for each in samples]).slope


def _keep(options: argparse.Namespace, observer: Observer, churn: Churn, weather: Weather, wrong: Sequence[str]) -> None:
    samples = observer.samples
    warm = samples[int(WARM_UP * len(samples)) :]
    half = samples[len(samples) // 2 :]
    figures: Figures = {"runs and sweeps": float(churn.ended.total())}
    for name in MEASURED:
        figures |= {
            f"{name}, at first": statistics.median(each[name] for each in warm[: max(1, len(warm) // 10)]),
            f"{name}, at last": statistics.median(each[name] for each in warm[-max(1, len(warm) // 10) :]),
            f"{name}, most": max(each[name] for each in samples),
            f"{name}, more an hour": compute_slope(warm, name),
            f"{name}, more an hour, second half": compute_slope(half, name),
        }
    figures |= {
        "CPU s per 1,000 runs": 1000 * samples[-1]["CPU s"] / max(1, churn.ended.total()),
        "reconciliations": float(observer.results.total()),
        "of them put off": float(observer.results["retry"]),
        "of them failed by a fault of the operator's own": float(observer.results["error"]),
        "longest wait for the metrics page, s": observer.longest_silence,
        "ends of the operator's process": float(observer.starts - 1),
        "calls and events befallen": float(weather.hits.total()),
    }
    step = max(1, len(samples) // 120)
    path = save(
        "soak",
        [figures],
        minutes=options.minutes,
        seed=options.seed,
        workers=options.workers,
        namespaces=options.namespaces,
        residents=options.residents,
        ended=dict(sorted(churn.ended.items())),
        spells={name: [weather.spells[name], weather.hits[name]] for name in sorted(weather.spells)},
        report_answers={str(status): count for status, count in sorted(churn.report_answers.items())},
        wrong=list(wrong),
        samples=[{name: round(value, 2) for name, value in each.items()} for each in samples[::step]],
    )
    print(json.dumps(figures, indent=1))
    print(f"kept in {path.name}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--workers", type=int, default=8, help="users who create one run after the other")
    parser.add_argument("--namespaces", type=int, default=4)
    parser.add_argument("--residents", type=int, default=100, help="suspended runs that nobody touches")
    parser.add_argument("--keep-log", action="store_true", help="write the end of the operator's log to soak-operator.log")
    options = parser.parse_args()
    if not 0 < options.minutes <= MOST_MINUTES:
        parser.error(f"--minutes: at most {MOST_MINUTES}: the operator's token lasts two hours")
    if found := asyncio.run(measure(options)):
        sys.exit("\n".join(found))
