"""What the trainer tells the operator while it runs."""

from typing import Annotated, Literal

from pydantic import Field

from finetune_api.base import ApiModel
from finetune_api.progress import DatasetCounts, Metrics, Progress

Stage = Literal["loading", "preparing", "training", "evaluating", "publishing"]


class JobReference(ApiModel):
    """Names the FineTuneJob that a run belongs to."""

    namespace: Annotated[str, Field(min_length=1, max_length=63)]
    """Namespace of the FineTuneJob."""
    name: Annotated[str, Field(min_length=1, max_length=253)]
    """Name of the FineTuneJob."""
    uid: Annotated[str, Field(min_length=1, max_length=64)]
    """UID of the FineTuneJob."""


class TrainerReport(ApiModel):
    """The newest figures of a run. A report replaces the one before; none is owed, and a lost one costs nothing."""

    job: JobReference
    """The run that the report is about."""
    sequence: Annotated[int, Field(ge=1, le=2**53)]
    """Rises by one with each report of a pod; the operator refuses what is not newer than what it has."""
    stage: Stage
    """What the trainer is doing."""
    device: Annotated[str, Field(max_length=128)] | None = None
    """Device that it trains on, for people: `cpu`, `NVIDIA H100 80GB HBM3`."""
    progress: Progress | None = None
    """How far the run is; absent before the number of steps is known."""
    metrics: Metrics = Field(default_factory=Metrics)
    """What was measured."""
    dataset: DatasetCounts | None = None
    """What became of the data; absent before it is prepared."""
