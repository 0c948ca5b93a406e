"""How a run gets over what goes wrong: policies, pure, and the state that they keep in checkpoints."""

import statistics
from collections import deque
from dataclasses import dataclass
from typing import Annotated, Final

from pydantic import ConfigDict, Field

from finetune_api.base import StoredModel
from finetune_api.progress import MAX_ADJUSTMENTS
from finetune_api.spec import EarlyStoppingSpec, TrainingSpec
from finetune_api.spec.objective import Objective

_WINDOW: Final = 32
_FIRST: Final = 8
"""Losses to know before one can be called a spike."""
_SPIKES: Final = 3
"""Spikes in a row that count as divergence: one alone is a hard batch."""


class BatchPlan(StoredModel):
    """How a step is computed. Every plan of a run learns the same from a step."""

    per_device: Annotated[int, Field(ge=1)]
    accumulation: Annotated[int, Field(ge=1)]
    checkpointing: bool
    offload: bool = False


class SurvivalState(StoredModel):
    """What the policies remember. It is part of every checkpoint, so that a resumed run decides as one that never stopped."""

    model_config = ConfigDict(frozen=False)

    learning_rate_scale: float = 1.0
    roll_backs: int = 0
    plan: BatchPlan | None = None
    adjustments: list[str] = Field(default_factory=list)
    losses: list[float] = Field(default_factory=list)
    spikes: int = 0
    best_loss: float | None = None
    best_step: int | None = None
    reference: float | None = None
    """Held-out loss that the next one must lie below to count as lower."""
    worse: int = 0
    """Evaluations in a row that were not lower."""
    stopped_early: bool = False

    def note(self, words: str) -> None:
        """Remember that the run changed something on its own."""
        self.adjustments[:] = [*self.adjustments, words[:256]][-MAX_ADJUSTMENTS:]


class SpikeGuard:
    """Tells a loss that leaps and stays there.

    :param factor: a loss above this many times the median of the last steps is a spike; None turns it off.
    """

    def __init__(self, factor: float | None, losses: list[float] | None = None, spikes: int = 0) -> None:
        self._factor = factor
        self._losses: deque[float] = deque(losses or [], maxlen=_WINDOW)
        self.spikes = spikes
        """Spikes in a row."""
        self.limit = float("inf")
        """Loss above which the last one was a spike."""

    @property
    def losses(self) -> list[float]:
        """Losses of the last steps that were no spikes, oldest first."""
        return list(self._losses)

    def observe(self, loss: float) -> bool:
        """Take the loss of a step, and tell whether it has diverged."""
        if self._factor is None:
            return False
        if len(self._losses) >= _FIRST:
            middle = statistics.median(self._losses)
            self.limit = self._factor * middle
            if middle > 0 and loss > self.limit:
                self.spikes += 1
                return self.spikes >= _SPIKES
        self.spikes = 0
        self._losses.append(loss)
        return False


def observe_evaluation(state: SurvivalState, spec: EarlyStoppingSpec | None, step: int, loss: float) -> bool:
    """Take the held-out loss at ``step`` into ``state``, and tell whether it is the lowest so far."""
    needed = spec.min_delta if spec is not None else 0.0
    best = state.best_loss is None or loss < state.best_loss
    if state.reference is None or loss < state.reference - needed:
        state.reference, state.worse = loss, 0
    else:
        state.worse += 1
    if best:
        state.best_loss, state.best_step = loss, step
    state.stopped_early = spec is not None and state.worse >= spec.patience
    return best


def build_plan(training: TrainingSpec) -> BatchPlan:
    """Return the plan that the specification asks for."""
    return BatchPlan(
        per_device=training.per_device_batch_size,
        accumulation=training.gradient_accumulation_steps,
        checkpointing=training.gradient_checkpointing,
        offload=training.activation_offloading,
    )


@dataclass(frozen=True, slots=True)
class Step:
    """A step down, and the words for it."""

    plan: BatchPlan
    words: str


def compute_step_down(plan: BatchPlan, objective: Objective, *, can_offload: bool) -> Step | None:
    """Return the next plan that takes less memory and learns the same, or None where there is none.

    The batch is divided by its smallest prime factor and the accumulation multiplied by it, so that a step has the same examples.
    """
    smallest = 2 if objective == "kto" else 1
    factor = next((divisor for divisor in range(2, plan.per_device + 1) if plan.per_device % divisor == 0), 1)
    if factor > 1 and plan.per_device // factor >= smallest:
        small = plan.model_copy(update={"per_device": plan.per_device // factor, "accumulation": plan.accumulation * factor})
        return Step(small, f"batch {plan.per_device} -> {small.per_device}, accumulation {plan.accumulation} -> {small.accumulation}")
    if not plan.checkpointing:
        return Step(plan.model_copy(update={"checkpointing": True}), "gradient checkpointing on")
    if can_offload and not plan.offload:
        return Step(plan.model_copy(update={"offload": True}), "activations held in the node's memory")
    return None
