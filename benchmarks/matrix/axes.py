"""The axes of the matrix. To add a method, add an entry; to add an axis, add a dictionary, and its name to :data:`AXES`."""

from typing import Any, Final

Patch = dict[str, Any]
"""Changes to a FineTuneJob's spec (JSON merge patch)."""


def _adapter(**settings: Any) -> Patch:
    return {"method": {"adapter": settings}}


_LEARNT_TOKENS: Final = {"training": {"packing": False, "learningRate": 0.1}}

ADAPTERS: Final[dict[str, Patch]] = {
    "lora": _adapter(r=8),
    "lora, rslora": _adapter(r=8, rslora=True),
    "lora, dora": _adapter(r=8, dora=True),
    "lora, loraPlusRatio 16": _adapter(r=8, loraPlusRatio=16),
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
"""What is trained. Rates are higher than for real models: these are tiny and random, and learn for seconds."""

QUANTIZATIONS: Final[dict[str, Patch]] = {
    "nf4, doubleQuant": {"method": {"quantization": {"type": "nf4"}}},
    "nf4": {"method": {"quantization": {"type": "nf4", "doubleQuant": False}}},
    "fp4, doubleQuant": {"method": {"quantization": {"type": "fp4"}}},
    "fp4": {"method": {"quantization": {"type": "fp4", "doubleQuant": False}}},
    "int8": {"method": {"quantization": {"type": "int8"}}},
    "none": {"method": {"quantization": {"type": "none"}}},
}
"""What the base is held in."""

OBJECTIVES: Final[dict[str, Patch]] = {"sft": {}}
"""What is learnt."""

PROCESSES: Final[dict[str, Patch]] = {"1 process": {}}
"""Over how many processes."""

AXES: Final[dict[str, dict[str, Patch]]] = {
    "adapter": ADAPTERS,
    "quantization": QUANTIZATIONS,
    "objective": OBJECTIVES,
    "processes": PROCESSES,
}
