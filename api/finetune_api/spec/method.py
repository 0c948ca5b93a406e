"""What is learnt, by which adapter, on a base of which precision."""

import re
from typing import Annotated, Literal

from pydantic import Field, field_validator

from finetune_api.base import ApiModel
from finetune_api.rules import Rule

Objective = Literal["sft"]
AdapterType = Literal["lora"]
QuantizationType = Literal["nf4", "fp4", "int8", "none"]
ComputeDtype = Literal["bfloat16", "float16", "float32"]

ALL_LINEAR = "all-linear"
"""Value of `targetModules` that means every linear layer but the head, in PEFT's own words."""
_MODULE_NAMES = re.compile(r"^[A-Za-z0-9_.]+(,[A-Za-z0-9_.]+)*$")


class AdapterSpec(ApiModel):
    """The adapter that is trained."""

    type: AdapterType = "lora"
    """Kind of adapter (LoRA: arXiv 2106.09685)."""
    r: Annotated[int, Field(ge=1, le=1024)] = 16
    """Rank of the update."""
    alpha: Annotated[int, Field(ge=1, le=4096)] = 32
    """Scale of the update: it is multiplied by alpha / r (alpha / sqrt(r) with `rslora`)."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.05
    """Dropout on the adapter's input."""
    target_modules: Annotated[str, Field(min_length=1, max_length=1024)] = ALL_LINEAR
    """Modules to adapt: `all-linear` (every linear layer but the head), names separated by commas (`q_proj,v_proj`), or a regular
    expression that a module's whole path must match."""
    rslora: bool = False
    """Scale by alpha / sqrt(r), which keeps high ranks stable (rsLoRA: arXiv 2312.03732)."""
    dora: bool = False
    """Learn magnitude and direction apart (DoRA: arXiv 2402.09353). Slower."""

    @field_validator("target_modules")
    @classmethod
    def _is_names_or_expression(cls, value: str) -> str:
        if not _MODULE_NAMES.match(value) and value != ALL_LINEAR:
            try:
                re.compile(value)
            except re.error as error:
                raise ValueError(f"is neither all-linear, nor names separated by commas, nor a regular expression: {error}") from None
        return value

    @property
    def resolved_target_modules(self) -> str | list[str]:
        """The target in PEFT's terms: `all-linear` or a regular expression as text, names as a list."""
        if self.target_modules != ALL_LINEAR and _MODULE_NAMES.match(self.target_modules):
            return self.target_modules.split(",")
        return self.target_modules


class QuantizationSpec(ApiModel):
    """Precision in which the frozen base model is held. The defaults are QLoRA's (arXiv 2305.14314)."""

    type: QuantizationType = "nf4"
    """`nf4` and `fp4` hold a weight in 4 bits, `int8` in 8 (LLM.int8()), `none` in `computeDtype`."""
    double_quant: bool = True
    """Quantise the quantisation constants too: saves 0.37 bit a weight. Used by `nf4` and `fp4`."""
    compute_dtype: ComputeDtype = "bfloat16"
    """Type that the weights are multiplied in. `float16` needs a GPU."""


class MethodSpec(ApiModel):
    """How the model is tuned."""

    objective: Objective = "sft"
    """`sft`: supervised fine-tuning on answers."""
    adapter: AdapterSpec = Field(default_factory=AdapterSpec)
    """The adapter that is trained."""
    quantization: QuantizationSpec = Field(default_factory=QuantizationSpec)
    """Precision of the frozen base."""

    rules = (
        Rule(
            cel="!(self.adapter.dora && self.quantization.type == 'int8')",
            holds=lambda method: not (method.adapter.dora and method.quantization.type == "int8"),
            message="adapter.dora is not supported on an int8 base; use quantization.type nf4, fp4 or none",
            field="adapter.dora",
        ),
    )
