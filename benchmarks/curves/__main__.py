"""LoRA's curve on a quantised base beside the one in 16 bits: `python -m benchmarks.curves [--seeds 2] [--steps 60] [--base-steps 500]`.

Keeps the curves in benchmarks/results/curves.json and writes docs/reference/curves.md. Its figures are losses, so it may share the machine.
"""

import argparse
import json
import multiprocessing
import os
import platform
import subprocess
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.curves import page
from benchmarks.curves.training import make_base, train_seed
from benchmarks.curves.workspace import HIDDEN, LAYERS, ROOT

_LIBRARIES = ("torch", "transformers", "peft", "trl", "bitsandbytes")


def main() -> None:
    """Train everything, and write the page."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--seeds", type=int, default=2)
    arguments.add_argument("--steps", type=int, default=60)
    arguments.add_argument("--every", type=int, default=6, help="steps between two measurements")
    arguments.add_argument("--base-steps", type=int, default=500)
    options = arguments.parse_args()
    os.environ |= {"HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _run_apart(make_base, folder, options.base_steps)
        for seed in range(1, options.seeds + 1):
            _run_apart(train_seed, folder, seed, options.steps, options.every)
        result = {
            "date": datetime.now(UTC).date().isoformat(),
            "machine": f"{os.cpu_count()} processors ({_read_processor()}), Python {platform.python_version()}",
            "versions": ", ".join(f"{library} {version(library)}" for library in _LIBRARIES),
            "commit": _read_commit(),
            "model": f"{LAYERS} layers, hidden size {HIDDEN}",
            "steps": options.steps,
            "base": json.loads((folder / "base.json").read_text()),
            "curves": {str(seed): json.loads((folder / f"seed-{seed}.json").read_text()) for seed in range(1, options.seeds + 1)},
        }
    page.RESULT.write_text(json.dumps(result, indent=1) + "\n")
    page.main()


def _run_apart(work: Callable[..., None], *arguments: Any) -> None:
    """Run ``work`` in a process of its own, which gives its memory back and leaves this one without torch."""
    process = multiprocessing.get_context("spawn").Process(target=work, args=arguments)
    process.start()
    process.join()
    if process.exitcode != 0:
        raise SystemExit(f"the process that trains ended with {process.exitcode}")


def _read_commit() -> str:
    command = ["git", "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


def _read_processor() -> str:
    names = [line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return names[0] if names else platform.machine()


if __name__ == "__main__":
    main()
