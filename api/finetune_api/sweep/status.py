"""Status of a FineTuneSweep."""

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from finetune_api.artifact import Artifact
from finetune_api.base import StoredModel, Timestamp
from finetune_api.progress import Loss
from finetune_api.rules import UniqueBy
from finetune_api.status import Condition, Phase
from finetune_api.sweep.spec import MAX_TRIALS


class SweepPhase(StrEnum):
    """Where the sweep stands, for people."""

    PENDING = "Pending"
    """Accepted; no trial has been made yet."""
    RUNNING = "Running"
    """Trials are on their way."""
    SUSPENDED = "Suspended"
    """Suspended by its user."""
    SUCCEEDED = "Succeeded"
    """Every trial has ended, and the best is known."""
    FAILED = "Failed"
    """Ended without a result: the specification can't be carried out, or too many trials failed."""

    @property
    def is_terminal(self) -> bool:
        """True of a phase that is never left."""
        return self in (SweepPhase.SUCCEEDED, SweepPhase.FAILED)


class TrialStatus(StoredModel):
    """One trial."""

    name: Annotated[str, Field(max_length=63)]
    """Name of its FineTuneJob."""
    parameters: Annotated[dict[str, Annotated[str, Field(max_length=1024)]], Field(max_length=16)]
    """Value of each parameter, by its path."""
    rung: Annotated[int, Field(ge=0)] = 0
    """Round of successive halving, from 0."""
    phase: Phase
    """Phase of its FineTuneJob."""
    value: Loss | None = None
    """The objective at its end."""
    reason: Annotated[str, Field(max_length=128)] | None = None
    """Why it failed, as its FineTuneJob says: `OutOfMemory`, `Diverged`…"""


class BestTrial(StoredModel):
    """The best trial so far: of the last round that has one, with successive halving."""

    name: Annotated[str, Field(max_length=63)]
    """Name of its FineTuneJob."""
    parameters: Annotated[dict[str, Annotated[str, Field(max_length=1024)]], Field(max_length=16)]
    """Value of each parameter, by its path."""
    value: Loss
    """Its objective."""
    artifact: Artifact | None = None
    """Its adapter."""


class TrialCounts(StoredModel):
    """How many trials stand where."""

    total: Annotated[int, Field(ge=0)]
    """Trials of the whole sweep, when nothing fails."""
    active: Annotated[int, Field(ge=0)] = 0
    """Made and not ended."""
    succeeded: Annotated[int, Field(ge=0)] = 0
    """Ended with a result."""
    failed: Annotated[int, Field(ge=0)] = 0
    """Ended without one."""


class FineTuneSweepStatus(StoredModel):
    """What the operator has seen of a sweep."""

    observed_generation: Annotated[int, Field(ge=-1)] | None = None
    """Generation of the specification that this status speaks of; -1 before the operator has seen it."""
    phase: SweepPhase | None = None
    """Where the sweep stands, for people."""
    conditions: Annotated[list[Condition], Field(max_length=16), UniqueBy("type")] = Field(default_factory=list)
    """Where the sweep stands, for machines: `Accepted`, `Succeeded`, and kstatus' `Reconciling` and `Stalled`."""
    counts: TrialCounts | None = None
    """How many trials stand where."""
    best: BestTrial | None = None
    """The best trial so far."""
    trials: Annotated[list[TrialStatus], Field(max_length=2 * MAX_TRIALS), UniqueBy("name")] = Field(default_factory=list)
    """Every trial that has been made, in the order of their making."""
    start_time: Timestamp | None = None
    """When the first trial was made."""
    completion_time: Timestamp | None = None
    """When the sweep ended."""
