"""Cells of the matrix: each is refused where a manifest is applied, or trained for real."""

import itertools
import json
import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.matrix.axes import AXES, WORKSPACE
from finetune_api.resource import SpecInvalid, parse_spec
from finetune_api.spec import FineTuneJobSpec
from finetune_api.trainer_config import TrainerConfig
from finetune_trainer.ending import classify_exception
from finetune_trainer.interruption import Interruption
from finetune_trainer.run import Run

_TRAINING: dict[str, Any] = {
    "learningRate": 1e-2,
    "lrScheduler": "constant",
    "perDeviceBatchSize": 4,
    "gradientAccumulationSteps": 1,
    "maxLength": 64,
    "optimizer": "adamw_torch",
    "evalSteps": 1000,
    "checkpoint": {"everySteps": 1000},
    "seed": 7,
}


@dataclass(frozen=True, slots=True)
class Cell:
    """One choice on each axis."""

    choices: tuple[str, ...]

    @property
    def name(self) -> str:
        """A name that fits in a path."""
        return "-".join("".join(letter if letter.isalnum() else "-" for letter in choice) for choice in self.choices)


@dataclass(frozen=True, slots=True)
class Ending:
    """What became of a cell. One of the four is given."""

    refused: str | None = None
    """Why a manifest like this is not taken."""
    failed: str | None = None
    """What went wrong although it was taken."""
    losses: tuple[float, float] | None = None
    """Held-out loss before the first step and after the last one, as the objective defines it."""
    reward: float | None = None
    """Of the objective grpo, whose loss says nothing: mean reward of its answers to held-out prompts in the end."""

    @property
    def as_promised(self) -> bool:
        """Whether it was refused with a reason, or learnt something."""
        return self.refused is not None or self.reward is not None or (self.losses is not None and self.losses[1] < self.losses[0])


def list_cells() -> Iterator[Cell]:
    """Yield every cell, the last axis changing fastest."""
    yield from (Cell(choices) for choices in itertools.product(*AXES.values()))


def build_manifest_spec(cell: Cell, workspace: Path) -> dict[str, Any]:
    """Return the FineTuneJob's spec of ``cell``, as a person would write it."""
    spec: dict[str, Any] = {
        "model": {"uri": f"file://{workspace}/model"},
        "evaluation": {"samples": {"count": 0}},
        "training": _TRAINING,
        "resources": {"gpus": 0},
        "output": {"uri": f"file://{workspace}/out/{cell.name}"},
    }
    for axis, choice in zip(AXES.values(), cell.choices, strict=True):
        spec = _merge(spec, axis[choice])
    filled: dict[str, Any] = json.loads(json.dumps(spec).replace(WORKSPACE, str(workspace)))
    return filled


def check(cell: Cell, workspace: Path) -> FineTuneJobSpec | str:
    """Return the specification of ``cell``, or why it is refused: the words that the API server and the command line use."""
    try:
        return parse_spec(build_manifest_spec(cell, workspace))
    except SpecInvalid as error:
        return "; ".join(error.faults)


def build_trainer_config(cell: Cell, spec: FineTuneJobSpec, workspace: Path) -> dict[str, Any]:
    """Return the trainer's configuration, made from the specification as the operator and the command line make it."""
    parts = spec.model_dump(
        mode="json", by_alias=True, exclude_none=True, include={"model", "dataset", "method", "training", "evaluation", "output"}
    )
    return {
        "job": {"namespace": "matrix", "name": cell.name.lower()[:63].rstrip("-"), "uid": f"uid-{cell.name}"},
        **parts,
        "device": {"gpus": 0},
        "workDir": str(workspace / "work" / cell.name),
    }


def run_cells(cells: Iterable[Cell], workspace: Path, result: Path) -> None:
    """Run ``cells`` one after the other in this process; write what became of each to ``result``, as JSON by name."""

    endings: dict[str, dict[str, Any]] = {}
    for cell in cells:
        spec = check(cell, workspace)
        if isinstance(spec, str):
            endings[cell.name] = {"refused": spec}
            continue
        try:
            summary = Run(TrainerConfig.model_validate(build_trainer_config(cell, spec, workspace)), Interruption(), {}).execute()
        except Exception as error:
            logging.getLogger(__name__).exception("%s", cell.name)
            endings[cell.name] = {"failed": classify_exception(error)[1]}
        else:
            metrics = summary.metrics
            learnt = spec.method.objective != "grpo"
            endings[cell.name] = {"losses": [metrics.base_eval_loss, metrics.eval_loss]} if learnt else {"reward": metrics.eval_reward}
        result.write_text(json.dumps(endings))
    result.write_text(json.dumps(endings))


def prepare_and_run(cells: Iterable[Cell], workspace: Path, result: Path) -> None:
    """Write a model and data into ``workspace``, and run ``cells``: for a process that has just been started."""
    from tests.support.trainer_workspace import make_workspace  # noqa: PLC0415  loads torch

    make_workspace(workspace)
    run_cells(cells, workspace, result)


def read_endings(result: Path) -> dict[str, Ending]:
    """Read what :func:`run_cells` wrote."""
    return {
        name: Ending(
            ending.get("refused"), ending.get("failed"), tuple(ending["losses"]) if "losses" in ending else None, ending.get("reward")
        )
        for name, ending in json.loads(result.read_text()).items()
    }


def _merge(target: Any, patch: Any) -> Any:
    if not isinstance(patch, dict) or not isinstance(target, dict):
        return patch
    return {**target, **{key: _merge(target.get(key), value) for key, value in patch.items()}}
