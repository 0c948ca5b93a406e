"""Cells of the matrix: each is refused where a manifest is applied, or can be trained."""

import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.matrix.axes import AXES, WORKSPACE
from finetune_api.resource import SpecInvalid, parse_spec
from finetune_api.spec import FineTuneJobSpec

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
    patches = {name: axis[choice] for (name, axis), choice in zip(AXES.items(), cell.choices, strict=True)}
    for patch in (patches.pop("objective"), *patches.values()):
        spec = _merge(spec, patch)
    filled: dict[str, Any] = json.loads(json.dumps(spec).replace(WORKSPACE, str(workspace)))
    return filled


def check(cell: Cell, workspace: Path) -> FineTuneJobSpec | str:
    """Return the specification of ``cell``, or why it is refused: the words that the API server and the command line use."""
    try:
        return parse_spec(build_manifest_spec(cell, workspace))
    except SpecInvalid as error:
        return "; ".join(error.faults)


def build_trainer_config(cell: Cell, spec: FineTuneJobSpec, workspace: Path, port: int | None = None) -> dict[str, Any]:
    """Return the trainer's configuration, made from the specification as the operator and the command line make it.

    :param port: where the processes of a cell of several meet.
    """
    parts = spec.model_dump(
        mode="json", by_alias=True, exclude_none=True, include={"model", "dataset", "method", "training", "evaluation", "output"}
    )
    nodes = spec.resources.nodes
    return {
        "job": {"namespace": "matrix", "name": cell.name.lower()[:63].rstrip("-"), "uid": f"uid-{cell.name}"},
        **parts,
        "device": {"gpus": 0},
        "workDir": str(workspace / "work" / cell.name),
        **({"group": {"nodes": nodes, "address": "127.0.0.1", "port": port}} if nodes > 1 else {}),
    }


def _merge(target: Any, patch: Any) -> Any:
    if not isinstance(patch, dict) or not isinstance(target, dict):
        return patch
    return {**target, **{key: _merge(target.get(key), value) for key, value in patch.items()}}
