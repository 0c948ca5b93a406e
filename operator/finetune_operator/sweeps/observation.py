"""What is known of one FineTuneSweep at one moment: the input of every decision."""

from collections.abc import Mapping
from dataclasses import dataclass

from finetune_api.artifact import Artifact
from finetune_api.report import JobReference
from finetune_api.status import Phase
from finetune_api.sweep import FineTuneSweepSpec, FineTuneSweepStatus
from finetune_operator.objects import Object


@dataclass(frozen=True, slots=True)
class TrialJob:
    """The FineTuneJob of a trial."""

    name: str
    uid: str
    phase: Phase
    suspended: bool
    """Its specification asks for suspension."""
    suspended_by_sweep: bool
    """The sweep asked for it: it may take it back."""
    value: float | None
    """The objective, once it has ended with a result."""
    artifact: Artifact | None
    """Its adapter."""
    reason: str | None = None
    """Why it failed, where it has."""


@dataclass(frozen=True, slots=True)
class SweepObservation:
    """A FineTuneSweep and the FineTuneJobs that it controls."""

    ref: JobReference
    """Namespace, name and UID of the FineTuneSweep."""
    generation: int
    deleting: bool
    spec: FineTuneSweepSpec | None
    """None where the specification is not valid; ``faults`` then says why."""
    faults: tuple[str, ...]
    status: FineTuneSweepStatus
    """Status as last written."""
    stored_status: Object
    """The same as it was read, with what this release doesn't know."""
    body: Object
    """What is kept of the FineTuneSweep: what was decided on."""
    jobs: Mapping[str, TrialJob]
    """Its FineTuneJobs by name."""
    obstacle: str | None = None
    """Why a FineTuneJob could not be made, if that was just tried."""
