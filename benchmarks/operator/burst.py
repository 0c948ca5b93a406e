"""From apply to Job: a burst of FineTuneJobs on a real control plane, beside the same number of plain Jobs in the same run.

python benchmarks/operator/burst.py --jobs 1000 --rounds 3
"""

import argparse
import asyncio
import os
import sys
import tempfile
from pathlib import Path

from calls_alone import measure_calls_alone
from harness import (
    OURS,
    Bench,
    Figures,
    build_finetunejob,
    build_plain_job,
    compute_delays,
    describe_machine,
    open_bench,
    percentile,
    render_spread,
    save,
)

from finetune_operator.kube.client import FINETUNEJOBS, JOBS, ApiError

SETTLE_SECONDS = 15.0
OPERATOR = ("-m", "finetune_operator")


async def measure_burst(bench: Bench, count: int, argv: tuple[str, ...] = OPERATOR, agents: tuple[str, ...] = OURS) -> Figures:
    """Let an operator make the Jobs of ``count`` FineTuneJobs that are created at once."""
    await bench.wait_for_silence()
    with bench.operate(argv) as operator:
        await bench.warm_up()
        before, audit = operator.cpu_seconds(), bench.audit()
        await bench.create_all(FINETUNEJOBS, (build_finetunejob(f"run-{index:05}") for index in range(count)))
        await bench.wait_for(JOBS, count)
        created = operator.cpu_seconds()
        await asyncio.sleep(SETTLE_SECONDS)
        settled = operator.cpu_seconds()
        audit.read()
        delays, span = compute_delays(audit)
        figures = {
            "jobs/s": count / span,
            "p50 s": percentile(delays, 0.5),
            "p99 s": percentile(delays, 0.99),
            "CPU s per 1,000, to the last Job": 1000 * (created - before) / count,
            "CPU s per 1,000, settled": 1000 * (settled - before) / count,
            "peak MiB": operator.peak_mebibytes(),
            "writes per job": audit.count(agents).total() / count,
        }
    await bench.clear()
    return figures


async def measure_plain(bench: Bench, count: int) -> float:
    """Return how many plain Jobs a second the API server takes."""
    await bench.wait_for_silence()
    audit = bench.audit()
    await bench.create_all(JOBS, (build_plain_job(f"plain-{index:05}") for index in range(count)))
    audit.read()
    made = audit.creations("jobs").values()
    await bench.clear()
    return count / (max(made) - min(made)).total_seconds()


async def measure(count: int, rounds: int, pods_per_second: int | None) -> None:
    print(", ".join(f"{name}: {value}" for name, value in describe_machine().items()))
    results: list[Figures] = []
    with tempfile.TemporaryDirectory() as scratch:
        async with open_bench("burst", Path(scratch), pods_per_second=pods_per_second) as bench:
            for number in range(rounds):
                load = os.getloadavg()[0]
                plain = await measure_plain(bench, count)
                alone = await measure_calls_alone(bench, count)
                burst = await measure_burst(bench, count)
                floor = {"both calls alone, jobs/s": alone, "jobs/s ÷ both calls alone": burst["jobs/s"] / alone}
                figures = {"plain Jobs/s": plain, **floor, **burst, "load before": load}
                results.append(figures)
                save("burst", results, jobs=count, pods_per_second=pods_per_second or 20)
                print(f"round {number + 1}:", ", ".join(f"{name} {value:.2f}" for name, value in figures.items()), flush=True)
    print(f"\n{count} FineTuneJobs, {rounds} rounds   median [least, most]")
    print("\n".join(render_spread(results)))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--pods-per-second", type=int, help="rate of the controller manager's client; by default Kubernetes' own, 20")
    options = parser.parse_args()
    try:
        asyncio.run(measure(options.jobs, options.rounds, options.pods_per_second))
    except ApiError as error:
        sys.exit(f"the API server refused: {error}")
