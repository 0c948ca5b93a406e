"""What is learnt, by which adapter, on a base of which precision."""

from typing import Literal

from pydantic import Field

from finetune_api.base import ApiModel
from finetune_api.spec.adapter import METHOD_RULES, AdapterSpec
from finetune_api.spec.objective import OBJECTIVE_RULES, DistillSpec, DpoSpec, GrpoSpec, KtoSpec, Objective, OrpoSpec, RewardSpec

QuantizationType = Literal["nf4", "fp4", "int8", "fp8", "none"]
ComputeDtype = Literal["bfloat16", "float16", "float32"]


class QuantizationSpec(ApiModel):
    """Precision in which the frozen base model is held. The defaults are QLoRA's (arXiv 2305.14314)."""

    type: QuantizationType = "nf4"
    """`nf4` and `fp4` hold a weight in 4 bits, `int8` in 8 (LLM.int8()), `fp8` in 8 that are multiplied as such (on a GPU of compute
    capability 8.9 or more), `none` in `computeDtype`, or as it is where GPTQ, AWQ or compressed-tensors has quantised it already."""
    double_quant: bool = True
    """Quantise the quantisation constants too: saves 0.37 bit a weight. Used by `nf4` and `fp4`."""
    compute_dtype: ComputeDtype = "bfloat16"
    """Type that the weights are multiplied in. `float16` needs a GPU. With `fp8`, the type of all else, which is `bfloat16`."""


class MethodSpec(ApiModel):
    """How the model is tuned."""

    objective: Objective = "sft"
    """`sft`: supervised fine-tuning on answers. `pretrain`: continued pre-training on raw text. `dpo`, `orpo`, `kto`: from preferred
    answers. `reward`: a reward model. `distill`: from a teacher's probabilities. `grpo`: from rewards for the model's own answers."""
    dpo: DpoSpec | None = None
    """Settings of the objective `dpo`."""
    orpo: OrpoSpec | None = None
    """Settings of the objective `orpo`."""
    kto: KtoSpec | None = None
    """Settings of the objective `kto`."""
    reward: RewardSpec | None = None
    """Settings of the objective `reward`."""
    distill: DistillSpec | None = None
    """Settings of the objective `distill`, which needs them."""
    grpo: GrpoSpec | None = None
    """Settings of the objective `grpo`, which needs them."""
    adapter: AdapterSpec = Field(default_factory=AdapterSpec)
    """The adapter that is trained."""
    quantization: QuantizationSpec = Field(default_factory=QuantizationSpec)
    """Precision of the frozen base."""

    rules = (*OBJECTIVE_RULES, *METHOD_RULES)
