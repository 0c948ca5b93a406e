"""Rules of runs of several processes: several GPUs in a pod, or several pods."""

from typing import Any, Final

from finetune_api.rules import Rule

MAX_NODES: Final = 64
"""Pods of one run."""

MAX_GPUS: Final = 16
"""GPUs of one pod."""

OBJECTIVES: Final = ("sft", "pretrain", "distill", "dpo", "orpo", "reward")
"""Objectives that several processes learn together, by the same curve as one. Not `kto`, which estimates the divergence from its
reference over a batch of all processes at once: the curve would depend on their number. Not `grpo`: each draws answers of its own."""

_ALONE_CEL: Final = "(self.resources.nodes == 1 && self.resources.gpus <= 1)"


def _is_alone(spec: Any) -> bool:  # noqa: ANN401  a FineTuneJobSpec, whose module imports this one
    return bool(spec.resources.nodes == 1 and spec.resources.gpus <= 1)


GROUP_SPEC_RULES: Final = (
    Rule(
        cel=f"{_ALONE_CEL} || self.method.objective in {list(OBJECTIVES)}",
        holds=lambda spec: _is_alone(spec) or spec.method.objective in OBJECTIVES,
        message=f"must be one of {', '.join(OBJECTIVES)} with several GPUs or nodes: what kto and grpo learn from depends on how many "
        "processes share a batch; set resources.gpus to 1 or 0 and resources.nodes to 1",
        field="method.objective",
    ),
    Rule(
        cel=f"{_ALONE_CEL} || self.training.divergence.action == 'fail'",
        holds=lambda spec: _is_alone(spec) or spec.training.divergence.action == "fail",
        message="must be fail with several GPUs or nodes: one process can't go back alone",
        field="training.divergence.action",
    ),
    Rule(
        cel=f"!{_ALONE_CEL} || self.training.sharding == 'none'",
        holds=lambda spec: not _is_alone(spec) or spec.training.sharding == "none",
        message="divides the model over several processes; set resources.gpus or resources.nodes above 1, or remove it",
        field="training.sharding",
    ),
    Rule(
        cel="!has(self.scheduling.gang) || self.resources.nodes > 1",
        holds=lambda spec: spec.scheduling.gang is None or spec.resources.nodes > 1,
        message="gang is for runs of several pods; remove it, or set resources.nodes above 1",
        field="scheduling.gang",
    ),
)
"""What several processes can't do, or what nobody has proved that they can."""
