"""What is compared, and by which settings. All contenders of a seed learn the same rows in the same order."""

from pathlib import Path
from typing import Any, Final

from finetune_api.spec import FineTuneJobSpec

REFERENCE: Final = "16 bits"
CONTENDERS: Final[dict[str, dict[str, Any]]] = {
    REFERENCE: {"type": "none"},
    "32 bits": {"type": "none", "computeDtype": "float32"},
    "nf4, doubleQuant": {"type": "nf4"},
    "fp4, doubleQuant": {"type": "fp4"},
    "int8": {"type": "int8"},
    "fp8": {"type": "fp8"},
}
"""`method.quantization` of each. Between 16 and 32 bits lies what rounding alone does."""
_BATCHES: Final = {"perDeviceBatchSize": 8, "gradientAccumulationSteps": 1, "maxLength": 256, "optimizer": "adamw_torch"}


def build_base_config(folder: Path, steps: int) -> dict[str, Any]:
    """Return how the base model is made of random weights: full fine-tuning on prose."""
    method = {"objective": "pretrain", "adapter": {"type": "none"}, "quantization": {"type": "none", "computeDtype": "float32"}}
    training = {**_BATCHES, "maxSteps": steps, "learningRate": 2e-3, "epochs": 100, "gradientCheckpointing": False, "seed": 1}
    return _build(folder, "base", "random", "prose", method, {**training, "evalSteps": max(1, steps // 4)})


def build_config(folder: Path, name: str, seed: int, steps: int, every: int) -> dict[str, Any]:
    """Return how contender ``name`` learns programs, which the base has never seen.

    :param every: steps between two measurements of the held-out loss.
    """
    method = {"objective": "pretrain", "adapter": {"r": 16, "alpha": 32, "dropout": 0.0}, "quantization": CONTENDERS[name]}
    training = {**_BATCHES, "maxSteps": steps, "learningRate": 2e-3, "epochs": 100, "seed": seed, "evalSteps": every}
    return _build(folder, f"{''.join(each for each in name if each.isalnum())}-{seed}", "base", "programs", method, training)


def _build(folder: Path, name: str, model: str, data: str, method: dict[str, Any], training: dict[str, Any]) -> dict[str, Any]:
    """Return the trainer's configuration, as the command line makes it of a manifest."""
    spec = FineTuneJobSpec.model_validate(
        {
            "model": {"uri": f"file://{folder}/{model}"},
            "dataset": {"uri": f"file://{folder}/{data}.jsonl", "eval": {"uri": f"file://{folder}/{data}-held-out.jsonl"}},
            "method": method,
            "training": {**training, "checkpoint": {"everySteps": 1_000_000}},
            "evaluation": {"samples": {"count": 0}},
            "resources": {"gpus": 0},
            "output": {"uri": f"file://{folder}/out/{name}"},
        }
    )
    parts = spec.model_dump(
        mode="json", by_alias=True, exclude_none=True, include={"model", "dataset", "method", "training", "evaluation", "output"}
    )
    return {
        "job": {"namespace": "curves", "name": name, "uid": f"uid-{name}"},
        **parts,
        "device": {"gpus": 0},
        "workDir": str(folder / "work" / name),
    }
