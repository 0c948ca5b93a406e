"""What a run's calls cost the API server: its own processor time for a creation, a first status, a next one, and the Job.

python benchmarks/operator/call_costs.py --crds FOLDER --calls 500 --rounds 3

Definitions are compared in turns, each on a control plane of its own with no operator: the writes are what an operator's would be.
"""

import argparse
import asyncio
import json
import statistics
import tempfile
from collections.abc import Coroutine, Iterable
from pathlib import Path
from typing import Any

from calls_alone import prepare_job
from harness import (
    CRDS,
    NAMESPACES,
    ROOT,
    Bench,
    Figures,
    build_finetunejob,
    describe_machine,
    open_bench,
    read_cpu_seconds,
    render_spread,
    run_at_once,
    save,
)

from finetune_api.status import ConditionType
from finetune_operator.kube.client import FINETUNEJOBS, JOBS

MANIFESTS: dict[str, dict[str, Any]] = {
    "three URIs": {},
    "usual": {
        "method": {"adapter": {"r": 32}, "quantization": {"type": "nf4"}},
        "training": {"epochs": 1.0, "learningRate": 1e-4},
        "resources": {"gpus": 1, "memory": "32Gi"},
    },
}
MESSAGE = "No node can take the pod now: no nodes available to schedule pods. It asks for cpu 2, memory 16Gi, nvidia.com/gpu 1."
COUNTS = ("attemptInterruptions", "failures", "gpuSeconds", "interruptions", "queuedSeconds", "restarts", "runningSeconds")


def build_status(attempt: int) -> dict[str, Any]:
    """Return the status of a run that waits for a node: that is what most first writes say."""
    when = {"observedGeneration": 1, "lastTransitionTime": "2026-01-02T03:04:05Z"}
    conditions = [{"type": kind.value, "status": "False", "reason": "Unschedulable", "message": MESSAGE, **when} for kind in ConditionType]
    given = {"attempt": attempt, "gpus": 1, "jobName": "run-00001-78d21-0", "observedGeneration": 1, "phase": "Pending", "artifacts": []}
    return {**given, **dict.fromkeys(COUNTS, 0), "conditions": conditions}


class Costs:
    """Measures calls on one control plane."""

    def __init__(self, bench: Bench, calls: int) -> None:
        self._bench, self._calls = bench, calls
        self._server = bench.cluster.process_id("kube-apiserver")

    async def measure(self, spec: dict[str, Any]) -> Figures:
        """Return milliseconds of the API server a call, and how large a run is then, in KB."""
        client, names = self._bench.client, [(f"burst-{index % NAMESPACES}", f"run-{index:05}") for index in range(self._calls)]
        fill_in, uids = prepare_job(), {}

        async def create(namespace: str, name: str) -> None:
            created = await client.create(FINETUNEJOBS, namespace, build_finetunejob(name, **spec))
            uids[name] = created["metadata"]["uid"]

        async def write(namespace: str, name: str, attempt: int) -> None:
            await client.merge_patch(FINETUNEJOBS, namespace, name, {"status": build_status(attempt)}, subresource="status")

        async def create_job(namespace: str, name: str) -> None:
            await client.create(JOBS, namespace, fill_in(namespace, name, uids[name]))

        figures = {
            "creation, ms": await self._time(create(*name) for name in names),
            "first status, ms": await self._time(write(*name, 0) for name in names),
            "next status, ms": await self._time(write(*name, 1) for name in names),
        }
        stored = await client.get(FINETUNEJOBS, *names[0])
        figures["stored, KB"] = len(json.dumps(stored)) / 1000
        figures["Job, ms"] = await self._time(create_job(*name) for name in names)
        await self._bench.clear()
        return figures

    async def _time(self, calls: Iterable[Coroutine[Any, Any, None]]) -> float:
        await self._bench.wait_for_silence()
        before = read_cpu_seconds(self._server)
        await run_at_once(calls)
        return 1000 * (read_cpu_seconds(self._server) - before) / self._calls


async def measure(folders: list[Path], calls: int, rounds: int) -> None:
    print(", ".join(f"{name}: {value}" for name, value in describe_machine().items()))
    results: dict[str, list[Figures]] = {}
    for number in range(rounds):
        for folder in folders:
            with tempfile.TemporaryDirectory() as scratch:
                async with open_bench("call-costs", Path(scratch), crds=folder) as bench:
                    costs = Costs(bench, calls)
                    for manifest, spec in MANIFESTS.items():
                        figures = await costs.measure(spec)
                        results.setdefault(f"{_name(folder)}, {manifest}", []).append(figures)
                        said = ", ".join(f"{name} {value:.2f}" for name, value in figures.items())
                        print(f"round {number + 1}, {_name(folder)}, {manifest}: {said}", flush=True)
    for name, measured in results.items():
        print(f"\n{name}: {calls} calls each, {rounds} rounds   median [least, most]")
        print("\n".join(render_spread(measured)))
    if folders == [CRDS]:
        medians = [{"manifest": name} | {key: statistics.median(each[key] for each in of) for key in of[0]} for name, of in results.items()]
        save("call-costs", medians, calls=calls, rounds_each=results)


def _name(folder: Path) -> str:
    return str(folder.relative_to(ROOT)) if folder.is_relative_to(ROOT) else folder.parent.name


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--crds", type=Path, action="append", help="folder with finetunejobs.yaml and finetunesweeps.yaml, more than once to compare"
    )
    parser.add_argument("--calls", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    asyncio.run(measure([folder.resolve() for folder in options.crds or [CRDS]], options.calls, options.rounds))
