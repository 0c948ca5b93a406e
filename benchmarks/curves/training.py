"""Trains in this process, by the trainer's own run. Loads torch, so it belongs into a process of its own."""

import json
import sys
from pathlib import Path
from typing import Any

from benchmarks.curves.contenders import CONTENDERS, build_base_config, build_config
from benchmarks.curves.workspace import make_workspace
from finetune_api.trainer_config import TrainerConfig

Curve = list[tuple[int, float]]
"""Held-out loss after so many steps, beginning with 0."""


def make_base(folder: Path, steps: int) -> None:
    """Make the texts and the base model in ``folder``, and write the base's curve."""
    make_workspace(folder)
    config = build_base_config(folder, steps)
    _train(config)
    (Path(config["output"]["uri"].removeprefix("file://")) / "model").rename(folder / "base")
    (folder / "base.json").write_text(json.dumps(_read_curve(folder / "base")))


def train_seed(folder: Path, seed: int, steps: int, every: int) -> None:
    """Train every contender by ``seed``, and write their curves."""
    curves: dict[str, Curve] = {}
    for name in CONTENDERS:
        config = build_config(folder, name, seed, steps, every)
        _train(config)
        curves[name] = _read_curve(Path(config["output"]["uri"].removeprefix("file://")) / "adapter")
        sys.stderr.write(f"seed {seed}, {name}: {curves[name][0][1]:.4f} -> {curves[name][-1][1]:.4f}\n")
    (folder / f"seed-{seed}.json").write_text(json.dumps(curves))


def _train(config: dict[str, Any]) -> None:
    from finetune_trainer.interruption import Interruption  # noqa: PLC0415  loads the libraries
    from finetune_trainer.run import Run  # noqa: PLC0415

    Run(TrainerConfig.model_validate(config), Interruption(), {}).execute()


def _read_curve(published: Path) -> Curve:
    lines = [json.loads(line) for line in (published / "metrics.jsonl").read_text().splitlines()]
    return [(line["step"], line["eval_loss"]) for line in lines if "eval_loss" in line]
