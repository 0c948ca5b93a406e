"""Artifacts and checkpoints: published by a manifest written last, verified before they are believed."""

from finetune_trainer.artifacts.checkpoints import CheckpointStore, FetchedCheckpoint
from finetune_trainer.artifacts.publish import DamagedArtifact, ManifestFields, download_verified, publish, read_manifest, verify

__all__ = [
    "CheckpointStore",
    "DamagedArtifact",
    "FetchedCheckpoint",
    "ManifestFields",
    "download_verified",
    "publish",
    "read_manifest",
    "verify",
]
