"""Rules of what goes with a base model that is divided over the processes of a run, and with what is not held on the GPU."""

from typing import Final

from finetune_api.rules import Rule

DIVIDED_OPTIMIZERS: Final = ("adamw_torch", "adamw_torch_fused", "sgd")
"""Optimizers that can step on a part of each weight. The 8-bit and paged ones know nothing of parts, and Adafactor's factors are of whole
matrices."""
OFFLOADING_OBJECTIVES: Final = ("sft", "pretrain", "distill", "dpo", "kto", "reward")
"""Objectives whose trainers can hold activations elsewhere."""

_PLAIN_CEL: Final = "self.training.sharding == 'none'"

SHARDING_SPEC_RULES: Final = (
    Rule(
        cel="self.training.sharding != 'gradients' || self.method.adapter.type == 'none'",
        holds=lambda spec: spec.training.sharding != "gradients" or spec.method.adapter.type == "none",
        message="gradients is for full fine-tuning (method.adapter.type none): an adapter's are small and whole in each process, and all "
        "of its base would be there in each step; use full to divide the base, or none",
        field="training.sharding",
    ),
    Rule(
        cel=f"!self.training.shardOffloading || !({_PLAIN_CEL})",
        holds=lambda spec: not spec.training.shard_offloading or spec.training.sharding != "none",
        message="holds the parts of a divided model in the node's memory; set training.sharding, or remove it",
        field="training.shardOffloading",
    ),
    Rule(
        cel=f"{_PLAIN_CEL} || !(self.method.quantization.type in ['fp8', 'int8'])",
        holds=lambda spec: spec.training.sharding == "none" or spec.method.quantization.type not in ("fp8", "int8"),
        message="int8 and fp8 weights come with constants of their own for each row, which can't be divided; "
        "use quantization.type nf4, fp4 or none with training.sharding",
        field="method.quantization.type",
    ),
    Rule(
        cel=f"{_PLAIN_CEL} || self.method.quantization.computeDtype != 'float16'",
        holds=lambda spec: spec.training.sharding == "none" or spec.method.quantization.compute_dtype != "float16",
        message="must be bfloat16 or float32 with training.sharding: nobody has proved that scaled gradients survive it",
        field="method.quantization.computeDtype",
    ),
    Rule(
        cel=f"{_PLAIN_CEL} || !has(self.method.adapter.targetParameters)",
        holds=lambda spec: spec.training.sharding == "none" or spec.method.adapter.target_parameters is None,
        message="can't be used with training.sharding: such an adapter takes the place of the weight that is divided; remove it",
        field="method.adapter.targetParameters",
    ),
    Rule(
        cel=f"{_PLAIN_CEL} || self.method.adapter.type != 'none' || self.training.optimizer in {list(DIVIDED_OPTIMIZERS)}",
        holds=lambda spec: (
            spec.training.sharding == "none" or spec.method.adapter.type != "none" or spec.training.optimizer in DIVIDED_OPTIMIZERS
        ),
        message=f"must be one of {', '.join(DIVIDED_OPTIMIZERS)} with training.sharding and adapter.type none: each process steps on a "
        "part of every weight, which other optimizers can't",
        field="training.optimizer",
    ),
    Rule(
        cel=f"{_PLAIN_CEL} || self.evaluation.harness.size() == 0",
        holds=lambda spec: spec.training.sharding == "none" or not spec.evaluation.harness,
        message="lm-evaluation-harness runs in one process, which holds only a part of the model with training.sharding; remove the tasks, "
        "or use evaluation.tasks",
        field="evaluation.harness",
    ),
    Rule(
        cel=f"!self.training.activationOffloading || self.method.objective in {list(OFFLOADING_OBJECTIVES)}",
        holds=lambda spec: not spec.training.activation_offloading or spec.method.objective in OFFLOADING_OBJECTIVES,
        message=f"is for the objectives {', '.join(OFFLOADING_OBJECTIVES)}; remove it",
        field="training.activationOffloading",
    ),
)
"""Rules over method, training and evaluation."""
