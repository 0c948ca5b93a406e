"""Trainer processes and their results, shared by the tests of this folder: training costs seconds, comparing does not."""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from finetune_devcluster.ports import find_free_ports
from tests.faults.support.figures_of_session import figures, full, seed
from tests.support.report_receiver import ReportReceiver, run_receiver
from tests.support.trainer_process import RunningTrainer, Trainers, run_trainers
from tests.support.trainer_workspace import make_config, make_workspace

__all__ = ["figures", "full", "seed"]


@dataclass(frozen=True, slots=True)
class Finished:
    """A run that came to its end."""

    code: int
    process: RunningTrainer
    output: Path

    @property
    def adapter(self) -> Path:
        return self.output / "adapter"

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.adapter / "metrics.jsonl").read_text().splitlines()]

    @property
    def losses(self) -> list[tuple[int, float]]:
        return [(line["step"], line["loss"]) for line in self.lines if "loss" in line]


@pytest.fixture(scope="session")
def trainers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trainers]:
    os.environ |= {"OMP_NUM_THREADS": "1", "TRL_EXPERIMENTAL_SILENCE": "1"}
    with run_trainers(tmp_path_factory.mktemp("processes")) as started:
        yield started


@pytest.fixture(scope="session")
def workspace(trainers: Trainers, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with models and data."""
    folder = tmp_path_factory.mktemp("workspace")
    made = trainers.call(make_workspace, folder)
    assert made.wait() == 0, made.log
    return folder


@pytest.fixture(scope="session")
def receiver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ReportReceiver]:
    with run_receiver(tmp_path_factory.mktemp("receiver")) as running:
        yield running


@pytest.fixture(scope="session")
def uninterrupted(trainers: Trainers, workspace: Path, receiver: ReportReceiver) -> Finished:
    """The run that others are compared with. It reports to ``receiver``."""
    config = make_config(workspace, "uninterrupted", reporting=receiver.build_config(interval=0.05))
    code, process = trainers.run(config)
    assert code == 0, process.log
    return Finished(code, process, workspace / "out" / "uninterrupted")


@pytest.fixture(scope="session")
def dead_receiver(receiver: ReportReceiver) -> dict[str, Any]:
    """Reporting to a port that nobody listens at."""
    (port,) = find_free_ports(1)
    return {**receiver.build_config(interval=0.05), "url": f"https://localhost:{port}/v1/reports"}
