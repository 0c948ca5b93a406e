"""Ours beside the floor (plain Jobs) and peers, in turns in one run, so that a busy machine slows them alike.

    python benchmarks/operator/baseline.py --jobs 500 --rounds 3
    make bench-kubeflow

The peers are a textbook operator on kopf, and Kubeflow Trainer with JobSet.
"""

import argparse
import asyncio
import os
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path

from burst import measure_burst, measure_plain
from harness import Bench, Figures, describe_machine, open_bench, render_spread, save

PROGRAM = Path(__file__).with_name("textbook.py")
TEXTBOOK = ("-m", "kopf", "run", "--standalone", "--all-namespaces", "--log-format=plain", "--quiet", str(PROGRAM))
COMPARED = ("jobs/s", "p99 s", "CPU s per 1,000, settled", "peak MiB", "writes per job")
RESULTS = {"textbook": "baseline", "kubeflow": "kubeflow"}
"""Names under which the figures are kept, by the peer."""

Measure = Callable[[int], Awaitable[Figures]]


def open_peer(peer: str, bench: Bench) -> tuple[Measure, str]:
    """Return how a peer is measured, and its version."""
    if peer == "kubeflow":
        from kubeflow import Kubeflow  # noqa: PLC0415  it stands on what the tests have: `make bench-kubeflow` puts them on the path

        kubeflow = Kubeflow(bench)
        return kubeflow.measure, kubeflow.versions
    return lambda count: measure_burst(bench, count, TEXTBOOK, ("textbook", "kopf")), "benchmarks/operator/textbook.py"


async def measure(peer: str, count: int, rounds: int) -> None:
    print(", ".join(f"{name}: {value}" for name, value in describe_machine().items()))
    results: list[Figures] = []
    with tempfile.TemporaryDirectory() as scratch:
        async with open_bench("baseline", Path(scratch)) as bench:
            measure_peer, version = open_peer(peer, bench)
            for number in range(rounds):
                load = os.getloadavg()[0]
                plain = await measure_plain(bench, count)
                theirs = await measure_peer(count)
                ours = await measure_burst(bench, count)
                figures = {"load before": load, "plain jobs/s": plain}
                figures |= {f"{peer} {name}": theirs[name] for name in COMPARED} | {f"ours {name}": ours[name] for name in COMPARED}
                figures |= {f"ours ÷ {peer}, {name}": ours[name] / theirs[name] for name in COMPARED}
                figures["ours ÷ plain, jobs/s"] = ours["jobs/s"] / plain
                results.append(figures)
                save(RESULTS[peer], results, jobs=count, peer=version)
                print(f"round {number + 1}:", ", ".join(f"{name} {value:.2f}" for name, value in figures.items()), flush=True)
    print(f"\n{count} runs beside {version}, {rounds} rounds   median [least, most]")
    print("\n".join(render_spread(results)))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", choices=RESULTS, default="textbook")
    parser.add_argument("--jobs", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    asyncio.run(measure(options.peer, options.jobs, options.rounds))
