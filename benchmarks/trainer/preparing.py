"""Memory and time of reading, tokenising, checking and packing data, by their number: `python -m benchmarks.trainer.preparing`.

python -m benchmarks.trainer.preparing --rows 50000 200000 800000 --rounds 3       # prints the table
python -m benchmarks.trainer.preparing --against ../before --write                 # in turns with another checkout, and keeps the figures

Anonymous memory is what the process can't do without; pages of mapped files are given back when there is need of them.
"""

import argparse
import importlib.metadata
import inspect
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
RESULT = ROOT / "benchmarks" / "results" / "preparing.json"
LIMIT_SECONDS = 3000.0
_SAMPLE_SECONDS = 0.02
_MAX_LENGTH = 512
_PACKAGES = ("transformers", "trl", "datasets", "pyarrow", "tokenizers")
_MEBIBYTE = 2**20
FIGURES = ("anonymous memory, MiB", "with mapped files, MiB", "CPU s", "wall s", "written to the disk, MiB")


def write_rows(file: Path, rows: int) -> None:
    """Write conversations of one exchange, some 50 tokens each, made up of the tests' words, no two alike."""
    from tests.support.tiny_model import CORPUS  # noqa: PLC0415  the process that is measured has no tests

    generator = random.Random(7)  # noqa: S311  made-up rows, no secret
    words = sorted({word for line in CORPUS for word in line.split()})
    with file.open("w") as out:
        for number in range(rows):
            question, answer = (" ".join(generator.choices(words, k=generator.randint(*size))) for size in ((4, 12), (8, 24)))
            messages = [{"role": "user", "content": f"{question} {number}"}, {"role": "assistant", "content": answer}]
            out.write(json.dumps({"messages": messages}) + "\n")


class Meter:
    """Watches this process's memory; figures are what came on top of what it had at the beginning."""

    def __init__(self) -> None:
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._before = self._read()
        self._peak = self._before
        self._begun = (time.monotonic(), time.process_time())

    def __enter__(self) -> "Meter":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self._note()

    def read(self) -> list[float]:
        """Return the peaks in MiB (anonymous, all), CPU and wall seconds."""
        peaks = [(peak - before) / 1024 for peak, before in zip(self._peak, self._before, strict=True)]
        return [*peaks, time.process_time() - self._begun[1], time.monotonic() - self._begun[0]]

    def _watch(self) -> None:
        while not self._over.wait(_SAMPLE_SECONDS):
            self._note()

    def _note(self) -> None:
        self._peak = tuple(map(max, self._peak, self._read()))

    @staticmethod
    def _read() -> tuple[int, ...]:
        """Anonymous and all resident memory, in KiB."""
        fields = dict(
            line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(("RssAnon", "VmRSS"))
        )
        return tuple(int(fields[name].split()[0]) for name in ("RssAnon", "VmRSS"))


def run_measured(folder: Path, result: Path) -> None:
    """Prepare and pack the data in this process, as a run does before its model is loaded, and write the figures."""
    from datasets import disable_progress_bars  # noqa: PLC0415  the process that is measured
    from transformers import AutoTokenizer  # noqa: PLC0415
    from trl.data_utils import pack_dataset  # noqa: PLC0415

    from finetune_api.spec import DatasetSpec, TrainingSpec  # noqa: PLC0415
    from finetune_trainer.data import load_examples, prepare_data  # noqa: PLC0415

    disable_progress_bars()
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    tokenizer(text=["warm", "up"])
    work = folder / "work"
    where: dict[str, Any] = {"folder": work / "prepared"} if "folder" in inspect.signature(prepare_data).parameters else {}
    with Meter() as meter:
        examples = load_examples(DatasetSpec(uri=f"file://{folder}/train.jsonl"), 42, work / "data", {})
        data = prepare_data(examples, tokenizer, TrainingSpec(max_length=_MAX_LENGTH), **where)
        del examples
        packed = pack_dataset(data.train, _MAX_LENGTH, "bfd")
        rows = len(packed)
    result.write_text(json.dumps([*meter.read(), _count_written() / _MEBIBYTE, rows]))


def _count_written() -> int:
    """Return what this process has written to the disk, or is about to, in bytes."""
    fields = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(fields["write_bytes"])


def measure_once(tree: Path, folder: Path) -> list[float]:
    """Return :data:`FIGURES` of the trainer of ``tree``, in a process of its own."""
    result = folder / "result.json"
    result.unlink(missing_ok=True)
    paths = os.pathsep.join(str(tree / part) for part in ("api", "trainer"))
    environ = {**os.environ, "PYTHONPATH": paths, "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "true"}
    with tempfile.TemporaryDirectory(dir=folder) as cache, (folder / "log").open("w") as log:
        environ |= {"HF_HOME": cache, "TMPDIR": cache}
        command = [sys.executable, "-P", __file__, "--child", str(folder), str(result)]
        subprocess.run(command, env=environ, stdout=log, stderr=log, timeout=LIMIT_SECONDS, check=False)
    subprocess.run(["rm", "-rf", str(folder / "work")], check=True)
    if not result.exists():
        raise SystemExit(f"the data were not prepared:\n{(folder / 'log').read_text()[-2000:]}")
    figures: list[float] = json.loads(result.read_text())
    return figures[: len(FIGURES)]


def main() -> None:
    """Run the rounds."""
    if sys.argv[1:2] == ["--child"]:
        run_measured(Path(sys.argv[2]), Path(sys.argv[3]))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[50_000, 200_000, 800_000])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--against", type=Path, help="another checkout, whose trainer runs in turns with this one's")
    parser.add_argument("--write", action="store_true", help="keep the figures for docs/reference/speed.md")
    options = parser.parse_args()
    from tests.support.tiny_model import save_tokenizer  # noqa: PLC0415  loads torch

    trees = {**({"before": options.against.resolve()} if options.against else {}), "now": ROOT}
    seen: dict[tuple[int, str], list[list[float]]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_tokenizer(folder / "model")
        for rows in options.rows:
            write_rows(folder / "train.jsonl", rows)
            for _ in range(options.rounds):
                for label, tree in trees.items():
                    figures = measure_once(tree, folder)
                    seen.setdefault((rows, label), []).append(figures)
                    told = "; ".join(f"{what} {value:.1f}" for what, value in zip(FIGURES, figures, strict=True))
                    sys.stdout.write(f"{rows:,} rows, {label}: {told}\n")
                    sys.stdout.flush()
                    if options.write:
                        RESULT.write_text(json.dumps(build_result(seen, options.rounds), indent=1) + "\n")
    sys.stdout.write(json.dumps(build_result(seen, options.rounds), indent=1) + "\n")


def build_result(seen: dict[tuple[int, str], list[list[float]]], rounds: int) -> dict[str, Any]:
    """Return the table that the page of figures shows: medians, with the least and the most."""
    rows = {
        f"{count:,} rows, {label}": [[statistics.median(values), min(values), max(values)] for values in zip(*figures, strict=True)]
        for (count, label), figures in seen.items()
    }
    versions = ", ".join(f"{package} {importlib.metadata.version(package)}" for package in _PACKAGES)
    words = (
        "`make bench-preparing`: reading, tokenising, checking and packing short conversations (some 50 tokens each) from a JSON Lines "
        "file, in a process that has loaded the libraries: what memory it takes on top of theirs, at its peak. Anonymous memory is what it "
        "can't do without; pages of mapped files are given back when there is need of them. "
        f"Medians over {rounds} rounds in turns, with the least and the most. "
        f"{datetime.now(UTC):%Y-%m-%d}; {os.cpu_count()} processors ({platform.machine()}), load {os.getloadavg()[0]:.1f}, "
        f"Python {platform.python_version()}; {versions}."
    )
    return {"rows": rows, "columns": FIGURES, "words": words}


if __name__ == "__main__":
    main()
