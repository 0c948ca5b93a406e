"""Trains cells, each by the trainer's own program: in one process, or in several that meet."""

import json
import math
import shutil
import socket
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.matrix.cells import Cell, build_trainer_config, check
from benchmarks.matrix.endings import Ending, EndingBook, build_key
from finetune_api.spec import FineTuneJobSpec
from tests.support.trainer_process import RunningTrainer, Trainers


class CellRunner:
    """Runs cells in ``workspace``, which has the model and the data.

    :param book: where endings are kept, and looked for before anything is trained.
    """

    def __init__(self, trainers: Trainers, workspace: Path, book: EndingBook) -> None:
        self._trainers = trainers
        self._workspace = workspace
        self._book = book
        self._lock = threading.Lock()

    def run_all(self, cells: Sequence[Cell], jobs: int, tell: Callable[[Cell, Ending], None]) -> dict[str, Ending]:
        """Return what became of ``cells``, ``jobs`` of them at a time; ``tell`` is told each as it comes."""
        endings: dict[str, Ending] = {}

        def run(cell: Cell) -> None:
            ending = self.run(cell)
            with self._lock:
                endings[cell.name] = ending
                tell(cell, ending)

        with ThreadPoolExecutor(jobs) as pool:
            list(pool.map(run, cells))
        return endings

    def run(self, cell: Cell) -> Ending:
        """Return what became of ``cell``."""
        spec = check(cell, self._workspace)
        if isinstance(spec, str):
            return Ending(refused=spec)
        key = build_key(build_trainer_config(cell, spec, self._workspace, 0), self._workspace)
        if (known := self._book.find(key)) is not None:
            return known
        begun = time.monotonic()
        ending = self._train(cell, spec)
        kept = Ending(ending.refused, ending.failed, ending.losses, ending.rewards, round(time.monotonic() - begun, 1))
        with self._lock:
            self._book.note(key, cell.name, kept)
        return kept

    def _train(self, cell: Cell, spec: FineTuneJobSpec) -> Ending:
        for folder in ("out", "work"):
            shutil.rmtree(self._workspace / folder / cell.name, ignore_errors=True)
        processes = self._start(cell, spec)
        try:
            codes = [process.wait() for process in processes]
        except TimeoutError as error:
            return Ending(failed=str(error)[-2000:])
        finally:
            for process in processes:
                process.process.kill()
        if any(codes):
            worst = next(number for number, code in enumerate(codes) if code)
            return Ending(failed=f"exit codes {codes}: {_last_word(processes[worst])}")
        published = self._workspace / "out" / cell.name / ("model" if spec.method.adapter.type == "none" else "adapter")
        ending = read_ending(published / "metrics.jsonl", rewarded=spec.method.objective == "grpo")
        for folder in ("out", "work"):
            shutil.rmtree(self._workspace / folder / cell.name, ignore_errors=True)
        return ending

    def _start(self, cell: Cell, spec: FineTuneJobSpec) -> list[RunningTrainer]:
        nodes = spec.resources.nodes
        config = build_trainer_config(cell, spec, self._workspace, _find_free_port() if nodes > 1 else None)
        with self._lock:
            return [
                self._trainers.start({**config, "workDir": f"{config['workDir']}/pod-{number}"}, {"JOB_COMPLETION_INDEX": str(number)})
                for number in range(nodes)
            ]


def read_ending(metrics: Path, *, rewarded: bool) -> Ending:
    """Return what the published figures say: the held-out loss, or reward, before the first step and after the last."""
    lines: list[dict[str, Any]] = [json.loads(line) for line in metrics.read_text().splitlines()]
    name = "eval_reward" if rewarded else "eval_loss"
    measured = [line[name] for line in lines if name in line]
    finite = all(math.isfinite(line[key]) for line in lines for key in ("loss", "eval_loss", "grad_norm") if key in line)
    if len(measured) < 2 or not finite:
        return Ending(failed=f"the figures have {len(measured)} of {name}, {'all finite' if finite else 'not all finite'}")
    pair = (measured[0], measured[-1])
    return Ending(rewards=pair) if rewarded else Ending(losses=pair)


def _last_word(process: RunningTrainer) -> str:
    try:
        return process.summary.message or process.log[-1000:]
    except (AssertionError, OSError):
        return process.log[-1000:]


def _find_free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port
