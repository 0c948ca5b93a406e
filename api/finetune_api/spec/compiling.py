"""Rules of what goes with compiled layers."""

from typing import Final

from finetune_api.rules import Rule

COMPILING_SPEC_RULES: Final = (
    Rule(
        cel="!self.training.compile || !self.training.activationOffloading",
        holds=lambda spec: not spec.training.compile or not spec.training.activation_offloading,
        message="nobody has seen compiled layers give their activations to the node's memory and get them back; remove it, or "
        "activationOffloading",
        field="training.compile",
    ),
    Rule(
        cel="!self.training.compile || self.method.adapter.type != 'prefix-tuning'",
        holds=lambda spec: not spec.training.compile or spec.method.adapter.type != "prefix-tuning",
        message="does not go with adapter.type prefix-tuning: each layer fetches keys and values by its number, and would be compiled by "
        "itself; remove it",
        field="training.compile",
    ),
    Rule(
        cel="!self.training.compile || !has(self.method.adapter.targetParameters)",
        holds=lambda spec: not spec.training.compile or spec.method.adapter.target_parameters is None,
        message="does not go with adapter.targetParameters: such a weight is changed while its layer computes, which is compiled in many "
        "parts; remove one of them",
        field="training.compile",
    ),
)
"""Rules over method and training."""
