"""Trains cells: those of one process in turn, those of several each by as many of the trainer's own program, which meet."""

import dataclasses
import json
import logging
import math
import shutil
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks.matrix.cells import Cell, build_trainer_config, check
from benchmarks.matrix.endings import Ending, EndingBook, build_key
from finetune_api.spec import FineTuneJobSpec
from finetune_api.trainer_config import TrainerConfig
from tests.support.trainer_process import RunningTrainer, Trainers

CELLS_OF_A_PROCESS: Final = 16
SECONDS_OF_A_CELL: Final = 120.0
"""Longest time for each of a process's cells, on a busy machine."""


@dataclass(frozen=True, slots=True)
class Task:
    """A cell to train."""

    cell: Cell
    spec: FineTuneJobSpec
    key: str


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
        endings, left = look_up(cells, self._workspace, self._book)

        def note(task: Task, ending: Ending) -> None:
            with self._lock:
                endings[task.cell.name] = ending
                self._book.note(task.key, task.cell.name, ending)
                tell(task.cell, ending)

        alone = [task for task in left if task.spec.resources.nodes == 1]
        together = [task for task in left if task.spec.resources.nodes > 1]
        chunks = [alone[at : at + CELLS_OF_A_PROCESS] for at in range(0, len(alone), CELLS_OF_A_PROCESS)]
        with ThreadPoolExecutor(jobs) as pool:
            waits = [pool.submit(self._train_in_turn, chunk, note) for chunk in chunks]
            waits += [pool.submit(self._train_together, task, note) for task in together]
            for wait in waits:
                wait.result()
        return endings

    def _train_in_turn(self, tasks: Sequence[Task], note: Callable[[Task, Ending], None]) -> None:
        """Train cells of one process one after the other in a process: loading the libraries takes longer than a cell."""
        configs = {task.cell.name: build_trainer_config(task.cell, task.spec, self._workspace) for task in tasks}
        with self._lock:
            worker = self._trainers.call(run_in_turn, configs, self._workspace)
        deadline = time.monotonic() + SECONDS_OF_A_CELL * len(tasks)
        for task in tasks:
            done = self._workspace / "endings" / f"{task.cell.name}.json"
            while not done.exists() and worker.process.is_alive() and time.monotonic() < deadline:
                worker.process.join(0.2)
            if done.exists():
                said = json.loads(done.read_text())
                ending = self._read(task, said["seconds"]) if said["failed"] is None else Ending(failed=said["failed"])
            else:
                worker.process.kill()
                ending = Ending(failed=f"the process that trained it ended: {worker.log[-1000:]}")
            note(task, ending)

    def _train_together(self, task: Task, note: Callable[[Task, Ending], None]) -> None:
        """Train a cell of several processes, each the trainer's own program in a process of its own."""
        begun = time.monotonic()
        config = build_trainer_config(task.cell, task.spec, self._workspace, _find_free_port())
        with self._lock:
            processes = [
                self._trainers.start({**config, "workDir": f"{config['workDir']}/pod-{number}"}, {"JOB_COMPLETION_INDEX": str(number)})
                for number in range(task.spec.resources.nodes)
            ]
        try:
            codes = [process.wait() for process in processes]
        except TimeoutError as error:
            return note(task, Ending(failed=str(error)[-2000:]))
        finally:
            for process in processes:
                process.process.kill()
        if any(codes):
            worst = next(number for number, code in enumerate(codes) if code)
            return note(task, Ending(failed=f"exit codes {codes}: {_last_word(processes[worst])}"))
        return note(task, self._read(task, time.monotonic() - begun))

    def _read(self, task: Task, seconds: float) -> Ending:
        """Return what was published, and clear it away."""
        published = self._workspace / "out" / task.cell.name / ("model" if task.spec.method.adapter.type == "none" else "adapter")
        ending = read_ending(published / "metrics.jsonl", rewarded=task.spec.method.objective == "grpo")
        for folder in ("out", "work"):
            shutil.rmtree(self._workspace / folder / task.cell.name, ignore_errors=True)
        return dataclasses.replace(ending, seconds=round(seconds, 1))


def look_up(cells: Sequence[Cell], workspace: Path, book: EndingBook, *, again: bool = True) -> tuple[dict[str, Ending], list[Task]]:
    """Return the endings that are known without training, those of refused cells among them, and what is left to train.

    :param again: cells that failed are left to train.
    :raises ValueError: ``workspace`` is not absolute, so that no manifest could name it.
    """
    if not workspace.is_absolute():
        raise ValueError(f"{workspace} must be absolute")
    endings: dict[str, Ending] = {}
    left: list[Task] = []
    for cell in cells:
        spec = check(cell, workspace)
        if isinstance(spec, str):
            endings[cell.name] = Ending(refused=spec)
            continue
        key = build_key(build_trainer_config(cell, spec, workspace, 0), workspace)
        if (known := book.find(key, again=again)) is not None:
            endings[cell.name] = known
        else:
            left.append(Task(cell, spec, key))
    return endings, left


def run_in_turn(configs: Mapping[str, dict[str, Any]], workspace: Path) -> None:
    """Run the trainer once for each of ``configs`` in this process; write a file for each that ended."""
    from finetune_trainer.ending import classify_exception  # noqa: PLC0415  the process that starts others needs none of it
    from finetune_trainer.interruption import Interruption  # noqa: PLC0415
    from finetune_trainer.run import Run  # noqa: PLC0415

    (workspace / "endings").mkdir(exist_ok=True)
    for name, config in configs.items():
        begun, failed = time.monotonic(), None
        try:
            Run(TrainerConfig.model_validate(config), Interruption(), {}).execute()
        except Exception as error:
            logging.getLogger(__name__).exception("%s", name)
            failed = classify_exception(error)[1]
        part = workspace / "endings" / f"{name}.part"
        part.write_text(json.dumps({"failed": failed, "seconds": time.monotonic() - begun}))
        part.replace(part.with_suffix(".json"))


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
