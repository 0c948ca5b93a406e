"""Runs whose layers are compiled. Functions here run in a process of their own: the tests load no torch."""

import json
from pathlib import Path
from typing import Any


def train_counted(configs: dict[str, dict[str, Any]], result: Path) -> None:
    """Run each of ``configs`` in this process; write by name what came out, how many graphs were compiled, and why in parts where so."""
    import torch
    from torch._dynamo.utils import counters

    from finetune_api.trainer_config import TrainerConfig
    from finetune_trainer.interruption import Interruption
    from finetune_trainer.run import Run
    from tests.support.resume_checks import describe

    seen: dict[str, Any] = {}
    for name, config in configs.items():
        torch._dynamo.reset()
        counters.clear()
        summary = Run(TrainerConfig.model_validate(config), Interruption(), {}).execute()
        graphs = counters["stats"]["unique_graphs"]
        seen[name] = {**describe(summary), "graphs": graphs, "breaks": list(counters["graph_break"])}
        result.write_text(json.dumps(seen))


def explain_failures(result: Path) -> None:
    """Write what is told of a compiler that fails, by why it does; null where it is another's business."""
    import torch

    from finetune_trainer.model.compiling import explain_failure

    seen: dict[str, str | None] = {}
    for name, fault in (
        ("unknown", NotImplementedError("no such kernel")),
        ("memory", torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")),
        ("disk", OSError(28, "No space left on device")),
    ):
        told = explain_failure(_fail(fault))
        seen[name] = None if told is None else told.message
    seen["no compiler's"] = None if explain_failure(RuntimeError("a fault of the model's own")) is None else "told"
    result.write_text(json.dumps(seen))


def _fail(fault: Exception) -> BaseException:
    import torch

    def compile_nothing(*_: Any) -> Any:
        raise fault

    try:
        torch.compile(lambda rows: rows + 1, backend=compile_nothing)(torch.ones(2))
    except (RuntimeError, OSError) as error:
        return error
    raise AssertionError("it was compiled")
