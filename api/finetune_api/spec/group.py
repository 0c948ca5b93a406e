"""Rules of runs of several processes: several GPUs in a pod, or several pods."""

from typing import Any, Final

from finetune_api.rules import Rule

MAX_NODES: Final = 64
"""Pods of one run."""

MAX_GPUS: Final = 16
"""GPUs of one pod."""

OBJECTIVES: Final = ("sft", "pretrain")
"""Objectives that several processes learn together."""
ADAPTERS: Final = ("lora", "none")
"""Types of adapters that several processes train together."""

_ALONE_CEL: Final = "(self.resources.nodes == 1 && self.resources.gpus <= 1)"


def _is_alone(spec: Any) -> bool:  # noqa: ANN401  a FineTuneJobSpec, whose module imports this one
    return bool(spec.resources.nodes == 1 and spec.resources.gpus <= 1)


GROUP_SPEC_RULES: Final = (
    Rule(
        cel=f"{_ALONE_CEL} || self.method.objective in {list(OBJECTIVES)}",
        holds=lambda spec: _is_alone(spec) or spec.method.objective in OBJECTIVES,
        message=f"must be one of {', '.join(OBJECTIVES)} with several GPUs or nodes; set resources.gpus to 1 or 0 and resources.nodes to 1",
        field="method.objective",
    ),
    Rule(
        cel=f"{_ALONE_CEL} || self.method.adapter.type in {list(ADAPTERS)}",
        holds=lambda spec: _is_alone(spec) or spec.method.adapter.type in ADAPTERS,
        message=f"must be one of {', '.join(ADAPTERS)} with several GPUs or nodes; set resources.gpus to 1 or 0 and resources.nodes to 1",
        field="method.adapter.type",
    ),
    Rule(
        cel=f"{_ALONE_CEL} || self.training.divergence.action == 'fail'",
        holds=lambda spec: _is_alone(spec) or spec.training.divergence.action == "fail",
        message="must be fail with several GPUs or nodes: one process can't go back alone",
        field="training.divergence.action",
    ),
)
"""What several processes can't do, or what nobody has proved that they can."""
