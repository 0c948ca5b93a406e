"""FineTuneJobs from Python: build, submit, watch, result; synchronous (:class:`FineTuneClient`) and asynchronous
(:class:`AsyncFineTuneClient`). Needs the extra ``sdk``, and no training library.
"""

from finetune_api.resource import FineTuneJob, SpecInvalid, parse_manifest
from finetune_api.spec import FineTuneJobSpec
from finetune_api.status import Phase
from finetune_sdk.async_client import AsyncFineTuneClient
from finetune_sdk.build import build_job, to_manifest
from finetune_sdk.client import FineTuneClient
from finetune_sdk.errors import (
    ApiError,
    ArtifactDamaged,
    ArtifactUnreachable,
    Conflict,
    FinetuneError,
    NoCluster,
    NotFound,
    RunFailed,
    SpecDiffers,
    WaitTimedOut,
)
from finetune_sdk.gpus import GpuReport
from finetune_sdk.run import LogLine, Run, RunEvent

__all__ = [
    "ApiError",
    "ArtifactDamaged",
    "ArtifactUnreachable",
    "AsyncFineTuneClient",
    "Conflict",
    "FineTuneClient",
    "FineTuneJob",
    "FineTuneJobSpec",
    "FinetuneError",
    "GpuReport",
    "LogLine",
    "NoCluster",
    "NotFound",
    "Phase",
    "Run",
    "RunEvent",
    "RunFailed",
    "SpecDiffers",
    "SpecInvalid",
    "WaitTimedOut",
    "build_job",
    "parse_manifest",
    "to_manifest",
]
