"""Trainer processes without the seconds of importing torch in each: they are forked from a server that has imported it once.

Each is a process of its own all the same: its own module state, signals and exit code, as if started anew.
"""

import json
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from typing import Any

from finetune_api.summary import TrainerSummary, decode_summary

DEADLINE_SECONDS = 150.0
ENDLESS = 100_000
"""Steps of a run that is still training when a test ends it, on the fastest machine too."""
_MODULES = [
    "finetune_trainer.program",
    "finetune_trainer.run",
    "finetune_trainer.model.adapter",
    "finetune_trainer.model.loading",
    "finetune_trainer.run.callbacks",
    "finetune_trainer.run.settings",
    "finetune_trainer.run.publishing",
    "finetune_trainer.run.trainer",
    "finetune_trainer.run.distill",
    "finetune_trainer.run.grpo",
    "finetune_trainer.run.preference",
    "tests.support.trainer_process",
]


@dataclass(frozen=True, slots=True)
class Gate:
    """Where trainers wait: before they do ``step``, until it is opened. What a test does to them meanwhile comes in time on any machine."""

    step: int
    file: Path

    def open(self) -> None:
        """Let them go on."""
        self.file.touch()


def make_context() -> ForkServerContext:
    """Return the context whose server imports the training libraries when its first process is started."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_MODULES)
    return context


@dataclass(slots=True)
class RunningTrainer:
    """A trainer's process."""

    process: ForkServerProcess
    folder: Path
    cpu_seconds: float = 0.0
    """Processor time that it has taken, as last seen: a measure of how far it is that a busy machine does not change."""

    def send(self, number: signal.Signals) -> None:
        assert self.process.pid is not None
        os.kill(self.process.pid, number)

    def wait(self) -> int:
        """Return the exit code, as a shell has it: 128 and more for a signal."""
        deadline = time.monotonic() + DEADLINE_SECONDS
        while self.process.is_alive() and time.monotonic() < deadline:
            self.observe_cpu()
            self.process.join(0.05)
        code = self.process.exitcode
        if code is None:
            self.process.kill()
            raise TimeoutError(f"the trainer is not done after {DEADLINE_SECONDS} s:\n{self.log}")
        return code if code >= 0 else 128 - code

    def observe_cpu(self) -> float:
        """Return the processor time that it has taken so far, in seconds."""
        try:
            fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            return self.cpu_seconds
        self.cpu_seconds = max(self.cpu_seconds, (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK"))
        return self.cpu_seconds

    @property
    def log(self) -> str:
        file = self.folder / "stderr"
        return file.read_text() if file.exists() else ""

    @property
    def summary(self) -> TrainerSummary:
        """The termination message, decoded as the operator does."""
        text = (self.folder / "termination").read_text()
        summary = decode_summary(text)
        assert summary is not None, f"no summary in {text!r}; the log:\n{self.log}"
        return summary

    def wait_for(self, condition: Callable[[], bool], what: str) -> None:
        """Wait until ``condition`` holds, as long as the process lives."""
        deadline = time.monotonic() + DEADLINE_SECONDS
        while not condition():
            assert self.process.is_alive(), f"ended before {what}:\n{self.log}"
            assert time.monotonic() < deadline, f"no {what} in time:\n{self.log}"
            time.sleep(0.01)


class Trainers:
    """Starts trainers, each with a folder of its own for its log and last word."""

    def __init__(self, context: ForkServerContext, folder: Path) -> None:
        self._context = context
        self._folder = folder
        self._count = 0
        self.running: list[RunningTrainer] = []

    def start(self, config: dict[str, Any], environ: dict[str, str] | None = None, gate: Gate | None = None) -> RunningTrainer:
        """Start ``finetune-trainer`` with ``config`` in the environment."""
        return self.call(_run_trainer, json.dumps(config), environ or {}, gate)

    def make_gate(self, step: int) -> Gate:
        """Return a gate of its own."""
        self._count += 1
        return Gate(step, self._folder / f"gate-{self._count}")

    def call(self, target: Callable[..., None], *arguments: Any) -> RunningTrainer:
        """Start a process that calls ``target``, a function of a module, with ``arguments``."""
        self._count += 1
        folder = self._folder / f"process-{self._count}"
        folder.mkdir()
        process = self._context.Process(target=_enter, args=(folder, target, arguments))
        process.start()
        self.running.append(RunningTrainer(process, folder))
        return self.running[-1]

    def run(self, config: dict[str, Any], environ: dict[str, str] | None = None) -> tuple[int, RunningTrainer]:
        """Start a trainer and wait for its end."""
        running = self.start(config, environ)
        return running.wait(), running


@contextmanager
def run_trainers(folder: Path) -> Iterator[Trainers]:
    """Yield a starter of trainers; those that still run at the end are killed."""
    trainers = Trainers(make_context(), folder)
    try:
        yield trainers
    finally:
        for running in trainers.running:
            if running.process.is_alive():
                running.process.kill()


def _enter(folder: Path, target: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    os.environ["FINETUNE_TERMINATION_MESSAGE_PATH"] = str(folder / "termination")
    for name, descriptor in (("stdout", 1), ("stderr", 2)):
        file = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.dup2(file, descriptor)
        os.close(file)
    target(*arguments)


def _run_trainer(config: str, environ: dict[str, str], gate: Gate | None) -> None:
    from finetune_trainer.main import main

    if gate is not None:
        _wait_at(gate)
    os.environ.update({"FINETUNE_CONFIG": config, "FINETUNE_LOG_FORMAT": "text", **environ})
    sys.argv = ["finetune-trainer"]
    main()


def _wait_at(gate: Gate) -> None:
    from transformers import Trainer

    compute = Trainer.training_step

    def training_step(self: Any, *arguments: Any, **options: Any) -> Any:
        while self.state.global_step + 1 == gate.step and not gate.file.exists():
            time.sleep(0.005)
        return compute(self, *arguments, **options)

    Trainer.training_step = training_step  # type: ignore[method-assign]
