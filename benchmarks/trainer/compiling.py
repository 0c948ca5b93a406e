"""Steps with and without compiled layers, on the processor: `python -m benchmarks.trainer.compiling [--rounds 3]`.

Prints CPU seconds: what else the machine does changes them least. Each run begins with an empty cache of compiled kernels.
"""

import argparse
import json
import os
import resource
import shutil
import sys
import tempfile
from pathlib import Path

from benchmarks.trainer.rounds import own_python, run_once
from benchmarks.trainer.workload import WORKLOADS, write_workspace

PAIRS = (("cpu-none", "cpu-none-compiled"), ("cpu", "cpu-compiled"))


def main() -> None:
    """Run the rounds."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--rounds", type=int, default=3)
    options = arguments.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder / "compiled")
        write_workspace(WORKLOADS["cpu"], folder)
        for number in range(options.rounds):
            for pair in PAIRS:
                for workload in pair if number % 2 == 0 else reversed(pair):
                    shutil.rmtree(folder / "compiled", ignore_errors=True)
                    before = _measure_children()
                    figures = run_once("ours", WORKLOADS[workload], folder, own_python(), None)
                    whole = {"whole run, CPU s": _measure_children() - before}
                    sys.stdout.write(json.dumps({"workload": workload, "round": number, **whole, **figures}) + "\n")
                    sys.stdout.flush()


def _measure_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
