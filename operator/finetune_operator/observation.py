"""What is known of one FineTuneJob at one moment: the input of every decision."""

from dataclasses import dataclass
from datetime import datetime

from finetune_api.defaults import RecordedDefaults
from finetune_api.reasons import Reason
from finetune_api.report import JobReference
from finetune_api.spec import FineTuneJobSpec
from finetune_api.status import FineTuneJobStatus
from finetune_operator.memory import MemoryNeed
from finetune_operator.objects import Object


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why the API server would not create the Job."""

    reason: Reason
    message: str


@dataclass(frozen=True, slots=True)
class Observation:
    """A FineTuneJob, its newest Job, and that Job's pods."""

    ref: JobReference
    generation: int
    deleting: bool
    spec: FineTuneJobSpec | None
    """None where the specification is not valid; ``faults`` then says why."""
    faults: tuple[str, ...]
    is_newer: bool
    """``faults`` are fields that this release doesn't know, and no more: the API server keeps none that its schema lacks."""
    status: FineTuneJobStatus
    """Status as last written."""
    stored_status: Object
    """The same as it was read, with what this release doesn't know."""
    body: Object
    """What is kept of the FineTuneJob: what was decided on."""
    job: Object | None
    """The Job of the newest attempt that exists."""
    attempt: int | None
    """Number of that Job's attempt."""
    old_jobs: tuple[Object, ...]
    """Jobs of former attempts that still exist."""
    pods: tuple[Object, ...]
    """Pods of ``job``, oldest first."""
    leftovers: tuple[Object, ...]
    """Pods of the run that are not over and not of ``job``: of a Job that was deleted, say."""
    warning: Object | None
    """The newest Event that says why ``job`` could not create a pod."""
    workload: Object | None = None
    """Kueue's Workload of ``job``."""
    kueue: bool = False
    """Kueue is installed, as far as is known."""
    queue_name: str | None = None
    """LocalQueue of the run: of its Job, or what its next one will ask for."""
    position: int | None = None
    """Place in that queue, from 1, where Kueue shows it."""
    grace_seconds: int | None = None
    """Time between SIGTERM and SIGKILL that the next attempt should have."""
    created: datetime | None = None
    """When the FineTuneJob was created."""
    refusal: Refusal | None = None
    """Why the Job could not be created, if that was just tried."""
    is_new: bool = False
    """It was created after this operator began, so nobody else can have worked on it: its first Job needs no claim."""
    defaults: RecordedDefaults | None = None
    """What the platform gives the run: as recorded, or what is to be recorded with its first claim. ``spec`` has it in it."""
    misfit: str | None = None
    """Why no node of the cluster could take the run's pod; None where one could, where the pod has one, and where that is not known."""
    need: MemoryNeed | None = None
    """What the run is estimated to need of a GPU, where that is known."""
    shortage: str | None = None
    """That no GPU of the cluster has so much, and what would help; None where one has."""
    nodes_known: bool = False
    """The nodes were looked at for ``misfit`` and ``shortage``. Otherwise what was said of them before still stands."""
    simulated_gpus: bool = False
    """The cluster advertises GPUs that it doesn't have."""
