"""What a run does before its first step is done, phase by phase: `python -m benchmarks.trainer.startup`.

python -m benchmarks.trainer.startup --rows 50000 --rounds 3            # prints the phases
python -m benchmarks.trainer.startup --against ../before --write       # in turns with another checkout, and keeps the figures
python -m benchmarks.trainer.startup --kept --write                    # in turns with a pod that finds its data tokenised

CPU seconds are those of all threads, user and system: what else the machine does hardly moves them.
"""

import argparse
import importlib.metadata
import itertools
import json
import os
import platform
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"
BEFORE, KEPT = RESULTS / "startup.json", RESULTS / "startup-kept.json"
"""Figures beside those of another checkout, and beside those of a pod that finds its data tokenised."""
PHASES = ("libraries and files", "data read, tokenised, checked", "model", "trainer, packing", "first step")
"""What ends at each mark; the first begins with the process."""
LIMIT_SECONDS = 1800.0
_WARM_UP_ROWS = 64
_PACKAGES = ("torch", "transformers", "trl", "datasets", "tokenizers")


def write_rows(file: Path, rows: int) -> None:
    """Write conversations of two exchanges, some 200 tokens each, made up of the tests' words."""
    from tests.support.tiny_model import CORPUS  # noqa: PLC0415  the process that is measured has no tests

    generator = random.Random(7)  # noqa: S311  made-up rows, no secret
    words = sorted({word for line in CORPUS for word in line.split()})
    with file.open("w") as out:
        for _ in range(rows):
            texts = [" ".join(generator.choices(words, k=generator.randint(*size))) for size in ((10, 60), (20, 90), (5, 30), (20, 90))]
            messages = [{"role": role, "content": text} for role, text in zip(("user", "assistant") * 2, texts, strict=True)]
            out.write(json.dumps({"messages": messages}) + "\n")


def run_measured(folder: Path, result: Path, *, keeps: bool) -> None:
    """Train one step in this process, and write wall and CPU seconds at the end of each phase.

    :param keeps: keep the tokenised data, and end as a pod that is killed once they are in the store.
    """
    begun = time.monotonic()
    from finetune_trainer.run.run import Run  # noqa: PLC0415  start-up is measured

    marks: list[tuple[float, float]] = []

    def mark(*_: Any) -> None:
        marks.append((time.monotonic() - begun, time.process_time()))
        if len(marks) == len(PHASES):  # the trainer ends the process itself
            result.write_text(json.dumps(marks))
            if keeps:
                _end_once_kept(folder / "out")

    def note(run: Any, what: str) -> None:
        del run, what
        mark()
        if len(marks) == len(PHASES) - 1:
            _call_after_first_step(mark)

    Run._log_time = note
    config = {
        "job": {"namespace": "benchmark", "name": "startup", "uid": "uid-startup"},
        "model": {"uri": f"file://{folder}/model"},
        "dataset": {"uri": f"file://{folder}/train.jsonl", "evalFraction": 0, **({"keepTokenised": True} if keeps else {})},
        "training": {"maxSteps": 1, "perDeviceBatchSize": 1, "gradientAccumulationSteps": 1, "maxLength": 512, "optimizer": "adamw_torch"},
        "method": {"quantization": {"type": "none", "computeDtype": "float32"}},
        "evaluation": {"samples": {"count": 0}},
        "output": {"uri": f"file://{folder}/out"},
        "device": {"gpus": 0},
        "workDir": f"{folder}/work",
    }
    os.environ |= {"FINETUNE_CONFIG": json.dumps(config), "FINETUNE_TERMINATION_MESSAGE_PATH": f"{folder}/termination"}
    sys.argv = ["finetune-trainer"]
    from finetune_trainer.main import main as train  # noqa: PLC0415

    train()


def _end_once_kept(output: Path) -> None:
    deadline = time.monotonic() + LIMIT_SECONDS
    while not any(output.glob("checkpoints/*/tokens-*/manifest.json")) and time.monotonic() < deadline:
        time.sleep(0.1)
    os._exit(0)


def _call_after_first_step(mark: Any) -> None:
    from transformers import Trainer  # noqa: PLC0415  loaded by now

    step = Trainer.training_step

    def training_step(self: Any, *arguments: Any, **options: Any) -> Any:
        loss = step(self, *arguments, **options)
        mark()
        return loss

    Trainer.training_step = training_step


def measure_once(tree: Path, folder: Path, *, keeps: bool = False, goes_on: bool = False) -> list[tuple[float, float]]:
    """Return wall and CPU seconds of each phase of a run by the trainer of ``tree``, in a process of its own.

    :param keeps: see :func:`run_measured`.
    :param goes_on: as the next pod of the run before, with an empty disk.
    """
    for leftover in ("work",) if goes_on else ("out", "work"):
        shutil.rmtree(folder / leftover, ignore_errors=True)
    result = folder / "result.json"
    result.unlink(missing_ok=True)
    paths = os.pathsep.join(str(tree / part) for part in ("api", "trainer"))
    environ = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"}
    environ.pop("PYTHONDONTWRITEBYTECODE", None)
    environ["PYTHONPYCACHEPREFIX"] = str(folder / "bytecode")  # modules are compiled, as in the image
    with (folder / "log").open("w") as log:
        command = [sys.executable, "-P", __file__, "--child", str(folder), str(result), "keeps" if keeps else ""]
        subprocess.run(command, env=environ, stdout=log, stderr=log, timeout=LIMIT_SECONDS, check=False)
    if not result.exists():
        raise SystemExit(f"the run did not come to its first step:\n{(folder / 'log').read_text()[-2000:]}")
    marks = [(0.0, 0.0), *json.loads(result.read_text())]
    return [(after[0] - before[0], after[1] - before[1]) for before, after in itertools.pairwise(marks)]


def build_result(trees: dict[str, list[list[tuple[float, float]]]], words: str) -> dict[str, Any]:
    """Return the table that the page of figures shows: medians, with the least and the most of CPU seconds."""
    columns, table = [], {name: list[float]() for name in (*PHASES, "in all")}
    for label, rounds in trees.items():
        columns += [f"{label}: CPU s", "least", "most"]
        for number, name in enumerate(table):
            values = [sum(phase[1] for phase in each) if name == "in all" else each[number][1] for each in rounds]
            table[name] += [statistics.median(values), min(values), max(values)]
    return {"rows": table, "columns": columns, "words": words}


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        run_measured(Path(sys.argv[2]), Path(sys.argv[3]), keeps=sys.argv[4] == "keeps")
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--against", type=Path, help="another checkout, whose trainer runs in turns with this one's")
    parser.add_argument("--label", default="before", help="what is special of that checkout")
    parser.add_argument("--kept", action="store_true", help="beside a pod that finds its data tokenised by the one before it")
    parser.add_argument("--write", action="store_true", help="keep the figures for docs/reference/speed.md")
    options = parser.parse_args()
    from tests.support.tiny_model import TEMPLATE_WITH_MARKERS, build_model, build_tokenizer, save_tokenizer  # noqa: PLC0415  loads torch

    trees = {**({options.label: options.against.resolve()} if options.against else {}), "now": ROOT}
    seen: dict[str, list[list[tuple[float, float]]]] = {label: [] for label in trees}
    if options.kept:
        seen = {"tokenised": [], "found tokenised": []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_tokenizer(folder / "model")
        build_model(len(build_tokenizer(TEMPLATE_WITH_MARKERS))).save_pretrained(folder / "model")
        write_rows(folder / "train.jsonl", _WARM_UP_ROWS)
        for tree in trees.values():
            measure_once(tree, folder)  # compiles the modules, and fills the system's caches
        write_rows(folder / "train.jsonl", options.rows)
        for number in range(1, options.rounds + 1):
            for label in seen:
                goes_on = label == "found tokenised"  # by the run before it
                phases = measure_once(trees.get(label, ROOT), folder, keeps=options.kept, goes_on=goes_on)
                seen[label].append(phases)
                told = "; ".join(f"{what} {cpu:.1f} ({wall:.1f})" for what, (wall, cpu) in zip(PHASES, phases, strict=True))
                sys.stdout.write(f"{label}: CPU seconds (and wall): {told}\n")
                sys.stdout.flush()
            result = build_result(seen, build_words(options.rows, number))
            if options.write:
                (KEPT if options.kept else BEFORE).write_text(json.dumps(result, indent=1) + "\n")
    sys.stdout.write(json.dumps(result, indent=1) + "\n")


def build_words(rows: int, rounds: int) -> str:
    """Return what the table shows, and on what it was measured."""
    versions = ", ".join(f"{package} {importlib.metadata.version(package)}" for package in _PACKAGES)
    return (
        f"`make bench-startup`: a run of {rows:,} conversations of two exchanges on a tiny model, without a GPU, to the end of its first "
        f"step; median CPU seconds of all threads over {rounds} rounds in turns, with the least and the most. The first phase is importing "
        f"the libraries, compiled as in the image, while files come in. {datetime.now(UTC):%Y-%m-%d}; {os.cpu_count()} processors "
        f"({platform.machine()}), load {os.getloadavg()[0]:.1f}, Python {platform.python_version()}; {versions}."
    )


if __name__ == "__main__":
    main()
