"""Runs that are stopped and go on, in one process. Functions here run in a trainer's process: the tests load no torch."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any


def train_with_and_without_a_stop(configs: dict[str, dict[str, Any]], step: int, result: Path) -> None:
    """Run each of ``configs`` as it is, and again with a stop after ``step`` and another beginning with an empty disk; write what came out
    of both to ``result``, by name.
    """
    from finetune_api.trainer_config import TrainerConfig
    from finetune_trainer.errors import Interrupted
    from finetune_trainer.interruption import Interruption
    from finetune_trainer.run import Run

    seen: dict[str, Any] = {}
    for name, config in configs.items():
        whole = Run(TrainerConfig.model_validate(config), Interruption(), {}).execute()
        output = config["output"]["uri"] + "-stopped"
        stopped = TrainerConfig.model_validate(config | {"output": {"uri": output}, "workDir": config["workDir"] + "-stopped"})
        interruption = Interruption()
        run = Run(stopped, interruption, {})
        _request_after(run, interruption, step)
        try:
            run.execute()
        except Interrupted:
            at = run.progress.checkpoint_step
        else:
            raise AssertionError(f"{name} was not stopped")
        shutil.rmtree(config["workDir"] + "-stopped")
        resumed = Run(stopped, Interruption(), {}).execute()
        seen[name] = {"stopped_at": at, "whole": describe(whole), "resumed": describe(resumed)}
        result.write_text(json.dumps(seen))


def _request_after(run: Any, interruption: Any, step: int) -> None:
    """Let ``run`` be asked to stop when it has done ``step``."""
    end_step = run.progress.end_step

    def end_step_and_ask(done: int, *arguments: Any) -> None:
        end_step(done, *arguments)
        if done == step:
            interruption.request()

    run.progress.end_step = end_step_and_ask


def describe(summary: Any) -> dict[str, Any]:
    """What two runs that are the same have in common: losses, and the digest of the weights."""
    folder = Path(summary.artifacts[0].uri.removeprefix("file://"))
    weights = sorted(folder.glob("*.safetensors"))
    assert weights
    return {
        "losses": [[point.step, point.loss] for point in summary.metrics.history or []],
        "eval_loss": summary.metrics.eval_loss,
        "tokens": summary.metrics.tokens_seen,
        "weights": [hashlib.sha256(file.read_bytes()).hexdigest() for file in weights],
    }
