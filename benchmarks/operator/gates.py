"""Gates in Kueue's manner: the mean of several runs, plus a fifth. Not part of the tests: a busy machine fails no change.

    python benchmarks/operator/gates.py            # measure, and compare with gates.json
    python benchmarks/operator/gates.py --set      # measure, and set the gates anew

Of times only ratios to what was measured in the same run are gated, and of the rest what doesn't depend on the machine's speed alone.
"""

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
from pathlib import Path

from burst import measure_burst, measure_plain
from harness import Figures, describe_machine, open_bench

GATES = Path(__file__).with_name("gates.json")
SLACK = 1.2
JOBS = 500


async def measure(count: int, rounds: int) -> Figures:
    """Return the means over ``rounds``; for each figure, less is better."""
    results: list[Figures] = []
    with tempfile.TemporaryDirectory() as scratch:
        async with open_bench("gates", Path(scratch)) as bench:
            for _ in range(rounds):
                plain = await measure_plain(bench, count)
                ours = await measure_burst(bench, count)
                results.append(
                    {
                        "plain jobs/s per job/s of ours": plain / ours["jobs/s"],
                        "CPU s per 1,000, settled": ours["CPU s per 1,000, settled"],
                        "peak MiB": ours["peak MiB"],
                        "writes per job": ours["writes per job"],
                    }
                )
    return {name: statistics.mean(each[name] for each in results) for name in results[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=JOBS, help="in a burst; a comparison takes as many as the gates were set with")
    parser.add_argument("--set", action="store_true", help="set the gates anew")
    options = parser.parse_args()
    print(", ".join(f"{name}: {value}" for name, value in describe_machine().items()))
    if not options.set and not GATES.exists():
        sys.exit(f"there are no gates yet: set them on a quiet machine with {Path(__file__).name} --set")
    kept = {} if options.set else json.loads(GATES.read_text())
    if kept and kept["jobs"] != options.jobs:
        sys.exit(f"the gates were set with {kept['jobs']} jobs: compare with --jobs {kept['jobs']}, or set them anew with --set")
    figures = asyncio.run(measure(options.jobs, options.rounds))
    if options.set:
        gates = {
            "measured": describe_machine(),
            "jobs": options.jobs,
            "rounds": options.rounds,
            "gates": {name: round(SLACK * value, 3) for name, value in figures.items()},
        }
        GATES.write_text(json.dumps(gates, indent=1) + "\n")
        print(f"gates set in {GATES.name}: {gates['gates']}")
        return
    gates = kept["gates"]
    over = [name for name, value in figures.items() if value > gates[name]]
    for name, value in figures.items():
        print(f"  {name:34} {value:9.2f}   gate {gates[name]:9.2f}{'   OVER' if name in over else ''}")
    sys.exit(f"over the gate: {', '.join(over)}" if over else 0)


if __name__ == "__main__":
    main()
