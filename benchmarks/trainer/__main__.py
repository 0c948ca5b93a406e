"""Ours beside the bare libraries and LLaMA-Factory: `python -m benchmarks.trainer [--workload cpu] [--rounds 5] [--without llama-factory]`.

Keeps the figures in benchmarks/results after every run and writes docs/reference/speed.md.
"""

import argparse
import json
import multiprocessing
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.trainer import page
from benchmarks.trainer.rounds import own_python, run_once
from benchmarks.trainer.workload import WORKLOADS, Workload, write_workspace
from tests.support.report_receiver import run_receiver

INSTALL_SECONDS = 600
_LIBRARIES = ("torch", "transformers", "trl", "peft", "accelerate", "bitsandbytes", "datasets")


def main() -> None:
    """Run the rounds."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--workload", choices=list(WORKLOADS), default="cpu")
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--without", action="append", default=[], choices=["llama-factory"])
    arguments.add_argument("--environment", type=Path, default=Path("build/llama-factory"), help="where LLaMA-Factory is installed")
    options = arguments.parse_args()
    workload = WORKLOADS[options.workload]
    pythons, left_out = {"ours": own_python(), "plain": own_python()}, {}
    if "llama-factory" not in options.without:
        reason = install_llama_factory(options.environment)
        if reason is None:
            pythons["llama-factory"] = options.environment.resolve() / "bin" / "python"
        else:
            left_out["llama-factory"] = reason
    result: dict[str, Any] = {
        "workload": workload.as_dict(),
        "date": datetime.now(UTC).date().isoformat(),
        "machine": describe_machine(workload),
        "load before": f"{os.getloadavg()[0]:.1f}",
        "versions": {name: read_versions(python) for name, python in pythons.items() if name != "ours"},
        "left out": left_out,
        "rounds": [],
    }
    kept = page.RESULTS / f"trainer-{workload.name}.json"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        maker = multiprocessing.get_context("spawn").Process(target=write_workspace, args=(workload, folder))
        maker.start()
        maker.join()
        if maker.exitcode != 0:
            raise SystemExit("the model was not made")
        with run_receiver(folder) as receiver:
            receiver.proceed.set()
            for number in range(options.rounds):
                names = list(pythons) if number % 2 == 0 else list(reversed(pythons))
                for contender in names:
                    reporting = receiver.build_config(interval=5) if contender == "ours" else None
                    figures = run_once(contender, workload, folder, pythons[contender], reporting)
                    sys.stderr.write(f"{number + 1} {contender}: {figures}\n")
                    result["rounds"].append({"contender": contender, "round": number, "figures": figures})
                    kept.write_text(json.dumps(result, indent=1) + "\n")
    page.main()


def install_llama_factory(folder: Path) -> str | None:
    """Install LLaMA-Factory and bitsandbytes into an environment of their own; return why that failed, or None."""
    if (folder / "installed").exists():
        return None
    uv = shutil.which("uv") or str(Path(".tools/bin/uv"))
    try:
        subprocess.run([uv, "venv", "-q", "--clear", str(folder)], check=True, timeout=INSTALL_SECONDS)
        # It imports torchaudio, whose newest release (2.11) refuses a torch of another CUDA; the resolver doesn't know.
        wanted = ["llamafactory", "bitsandbytes", "torch<2.12"]
        subprocess.run([uv, "pip", "install", "-q", "-p", str(folder / "bin/python"), *wanted], check=True, timeout=INSTALL_SECONDS)
    except (subprocess.SubprocessError, OSError) as error:
        return f"it could not be installed: {error}"
    (folder / "installed").touch()
    return None


def read_versions(python: Path) -> str:
    """Return the versions of the libraries in the environment of ``python``."""
    code = (
        "import sys\nfrom importlib.metadata import version, PackageNotFoundError\n"
        "found = []\nfor name in sys.argv[1:]:\n    try: found.append(f'{name} {version(name)}')\n"
        "    except PackageNotFoundError: pass\nprint(', '.join(found))"
    )
    run = subprocess.run([str(python), "-c", code, "llamafactory", *_LIBRARIES], check=True, capture_output=True, text=True, timeout=120)
    return run.stdout.strip()


def describe_machine(workload: Workload) -> str:
    """Return what trains."""
    models = [line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    words = f"{os.cpu_count()} × {models[0] if models else platform.machine()}, Python {platform.python_version()}"
    if workload.gpu:
        command = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
        words += ", " + subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout.strip()
    return words


if __name__ == "__main__":
    main()
