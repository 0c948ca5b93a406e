"""Ours beside the floor (plain Jobs) and a textbook operator on kopf, in turns in one run, so that a busy machine slows them alike.

python benchmarks/operator/baseline.py --jobs 500 --rounds 3
"""

import argparse
import asyncio
import os
import statistics
import tempfile
from pathlib import Path

from burst import measure_burst, measure_plain
from harness import Figures, describe_machine, open_bench, render_spread, save

PROGRAM = Path(__file__).with_name("textbook.py")
TEXTBOOK = ("-m", "kopf", "run", "--standalone", "--all-namespaces", "--log-format=plain", "--quiet", str(PROGRAM))
COMPARED = ("jobs/s", "p99 s", "CPU s per 1,000, settled", "peak MiB", "writes per job")


async def measure(count: int, rounds: int) -> None:
    print(", ".join(f"{name}: {value}" for name, value in describe_machine().items()))
    results: list[Figures] = []
    with tempfile.TemporaryDirectory() as scratch:
        async with open_bench("baseline", Path(scratch)) as bench:
            for number in range(rounds):
                load = os.getloadavg()[0]
                plain = await measure_plain(bench, count)
                textbook = await measure_burst(bench, count, TEXTBOOK, ("textbook", "kopf"))
                ours = await measure_burst(bench, count)
                figures = {"load before": load, "plain jobs/s": plain}
                figures |= {f"textbook {name}": textbook[name] for name in COMPARED} | {f"ours {name}": ours[name] for name in COMPARED}
                figures |= {f"ours ÷ textbook, {name}": ours[name] / textbook[name] for name in COMPARED}
                figures["ours ÷ plain, jobs/s"] = ours["jobs/s"] / plain
                results.append(figures)
                save("baseline", results, jobs=count)
                print(f"round {number + 1}:", ", ".join(f"{name} {value:.2f}" for name, value in figures.items()), flush=True)
    print(f"\n{count} FineTuneJobs, {rounds} rounds   median [least, most]")
    print("\n".join(render_spread(results)))
    print(f"times a textbook's jobs/s: {statistics.median(each['ours ÷ textbook, jobs/s'] for each in results):.1f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    asyncio.run(measure(options.jobs, options.rounds))
