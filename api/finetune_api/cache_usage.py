"""How full a shared cache of base models is: what its filler leaves as its container's termination message, and status shows."""

from typing import Annotated

from pydantic import Field

from finetune_api.base import StoredModel, Timestamp
from finetune_api.progress import Count


class CacheUsage(StoredModel):
    """How full a cache of base models is."""

    models: Count
    """Whole models in it."""
    used_bytes: Count
    """Bytes of these models."""
    partial_bytes: Count = 0
    """Bytes of models that are being fetched, or were when their fetcher died."""
    free_bytes: Count
    """Free space of the volume, in bytes."""
    total_bytes: Count
    """Size of the volume, in bytes."""


class ModelCacheStatus(CacheUsage):
    """How full the run's cache of base models was when its newest pod looked."""

    claim: Annotated[str, Field(max_length=253)]
    """Its PersistentVolumeClaim."""
    measured_time: Timestamp | None = None
    """When that was."""
