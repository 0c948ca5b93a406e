"""The axes of the matrix. To add a method, add an entry; to add an axis, add a dictionary, and its name to :data:`AXES`."""

from typing import Any, Final

Patch = dict[str, Any]
"""Changes to a FineTuneJob's spec (JSON merge patch)."""


def _adapter(**settings: Any) -> Patch:
    return {"method": {"adapter": settings}}


_LEARNT_TOKENS: Final = {"training": {"packing": False, "learningRate": 0.1}}

ADAPTERS: Final[dict[str, Patch]] = {
    "lora": _adapter(r=8),
    "lora, rslora": _adapter(r=8, rslora=True) | {"training": {"learningRate": 4e-3}},
    "lora, dora": _adapter(r=8, dora=True),
    "lora, loraPlusRatio 16": _adapter(r=8, loraPlusRatio=16) | {"training": {"learningRate": 1e-3}},
    "lora, init gaussian": _adapter(r=8, init="gaussian"),
    "lora, init olora": _adapter(r=8, init="olora"),
    "lora, init pissa": _adapter(r=8, init="pissa"),
    "lora, init eva": _adapter(r=8, init="eva"),
    "lora, init loftq": _adapter(r=8, init="loftq"),
    "adalora": _adapter(type="adalora", r=4) | {"training": {"learningRate": 0.05}},
    "ia3": _adapter(type="ia3") | {"training": {"learningRate": 0.05}},
    "prompt-tuning": _adapter(type="prompt-tuning") | _LEARNT_TOKENS,
    "p-tuning, mlp": _adapter(type="p-tuning") | {"training": {"packing": False, "learningRate": 0.01}},
    "p-tuning, lstm": _adapter(type="p-tuning", encoder="lstm") | {"training": {"packing": False, "learningRate": 0.01}},
    "prefix-tuning": _adapter(type="prefix-tuning") | {"training": {**_LEARNT_TOKENS["training"], "gradientCheckpointing": False}},
    "none": _adapter(type="none"),
}
"""What is trained. Rates are higher than for real models: these are tiny and random, and learn for seconds. rsLoRA multiplies what is
learnt by more, and LoRA+ the rate of one half, so theirs are lower. Where an objective has a rate of its own, an adapter's is taken."""

QUANTIZATIONS: Final[dict[str, Patch]] = {
    "nf4, doubleQuant": {"method": {"quantization": {"type": "nf4"}}},
    "nf4": {"method": {"quantization": {"type": "nf4", "doubleQuant": False}}},
    "fp4, doubleQuant": {"method": {"quantization": {"type": "fp4"}}},
    "fp4": {"method": {"quantization": {"type": "fp4", "doubleQuant": False}}},
    "int8": {"method": {"quantization": {"type": "int8"}}},
    "fp8": {"method": {"quantization": {"type": "fp8"}}},
    "none": {"method": {"quantization": {"type": "none"}}},
}
"""What the base is held in."""


def _objective(name: str, data: str, steps: int = 6, **settings: Any) -> Patch:
    held_out = {"eval": {"uri": f"file://{WORKSPACE}/eval.jsonl"}} if data == "train" else {"evalFraction": 0.25}
    return {
        "method": {"objective": name, **({name: settings} if settings else {})},
        "dataset": {"uri": f"file://{WORKSPACE}/{data}.jsonl", **held_out},
        "training": {"maxSteps": steps},
    }


WORKSPACE: Final = "{workspace}"
"""Stands for the folder with model and data."""
_VOWEL: Final = {"name": "vowel", "type": "regex", "pattern": "[aeiou]"}
"""About half of a random model's answers have it, so that there is something to prefer from the first step on."""
OBJECTIVES: Final[dict[str, Patch]] = {
    "sft": _objective("sft", "train"),
    "pretrain": _objective("pretrain", "texts"),
    "distill": _objective("distill", "train", teacher={"uri": f"file://{WORKSPACE}/teacher"}),
    "dpo": _objective("dpo", "pairs", 5),
    "orpo": _objective("orpo", "pairs", 5),
    "kto": _objective("kto", "labelled") | {"training": {"maxSteps": 6, "learningRate": 3e-3}},
    "reward": _objective("reward", "pairs", 5),
    "grpo": _objective("grpo", "prompts", 6, rewards=[_VOWEL], numGenerations=8, maxCompletionLength=4)
    | {"model": {"uri": f"file://{WORKSPACE}/outspoken"}, "training": {"maxSteps": 12, "perDeviceBatchSize": 16}},
}
"""What is learnt, and from which data."""

PROCESSES: Final[dict[str, Patch]] = {"1 process": {}, "2 processes": {"resources": {"nodes": 2}}}
"""Over how many processes: each in a pod of its own, as far as they know, meeting over gloo."""

AXES: Final[dict[str, dict[str, Patch]]] = {
    "adapter": ADAPTERS,
    "quantization": QUANTIZATIONS,
    "objective": OBJECTIVES,
    "processes": PROCESSES,
}
