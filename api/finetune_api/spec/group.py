"""Rules of runs of several processes: several GPUs in a pod, or several pods."""

from typing import Any, Final

from finetune_api.rules import Rule

MAX_NODES: Final = 64
"""Pods of one run."""

MAX_GPUS: Final = 16
"""GPUs of one pod."""

_ALONE_CEL: Final = "(self.resources.nodes == 1 && self.resources.gpus <= 1)"


def _is_alone(spec: Any) -> bool:  # noqa: ANN401  a FineTuneJobSpec, whose module imports this one
    return bool(spec.resources.nodes == 1 and spec.resources.gpus <= 1)


GROUP_SPEC_RULES: Final = (
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
        cel="self.method.objective != 'grpo' || self.training.sharding == 'none'",
        holds=lambda spec: spec.method.objective != "grpo" or spec.training.sharding == "none",
        message="must be none for the objective grpo: the processes of a divided model compute in step, and here each writes answers of "
        "its own, some longer than others",
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
