"""What an earlier pod of the same run has left: a finished adapter, or a checkpoint to go on from."""

import logging
from typing import Final

from finetune_api.artifact import MANIFEST_NAME, Artifact, ArtifactManifest
from finetune_trainer.artifacts import DamagedArtifact, read_manifest, verify
from finetune_trainer.artifacts.publish import build_artifact, encode_manifest
from finetune_trainer.errors import ConfigInvalid, DataInvalid
from finetune_trainer.storage import Store

logger = logging.getLogger(__name__)

ADAPTER_FOLDER: Final = "adapter"
"""Folder of the published adapter below ``output.uri``."""
MODEL_FOLDER: Final = "model"
"""Folder of the published model below ``output.uri``, after full fine-tuning."""


def find_finished(output: Store, job_uid: str, kind: str = ADAPTER_FOLDER) -> tuple[Artifact, ArtifactManifest] | None:
    """Return the adapter (or another ``kind`` of artifact, in the folder of that name) that this run has published already, verified; None
    where there is none, or it is damaged or another run's.
    """
    try:
        manifest = read_manifest(output, kind)
        if manifest is None:
            return None
        if manifest.kind != kind or manifest.job_uid != job_uid:
            logger.warning("%s holds an artifact of run %s; it is replaced at the end", output.locate(kind), manifest.job_uid)
            return None
        manifest = verify(output, kind)
    except DamagedArtifact as error:
        logger.warning("an earlier %s is not used: %s", kind, error)
        return None
    content = output.read(f"{kind}/{MANIFEST_NAME}", 4 * 2**20) or encode_manifest(manifest)
    return build_artifact(output.locate(kind), manifest, content), manifest


def check_same_inputs(manifest: ArtifactManifest, model_digest: str | None, dataset_digest: str) -> None:
    """Check that a checkpoint was made from the same base model and data as are there now: otherwise the run would go on as another one.

    :raises ConfigInvalid: the base model changed since.
    :raises DataInvalid: the data changed since.
    """
    mend = "put it back as it was, or create the FineTuneJob anew to train on what is there now"
    if manifest.dataset_digest is not None and manifest.dataset_digest != dataset_digest:
        raise DataInvalid(f"the dataset changed since the checkpoint of step {manifest.step}; {mend}")
    if None not in (manifest.base_model_digest, model_digest) and manifest.base_model_digest != model_digest:
        raise ConfigInvalid(f"the base model changed since the checkpoint of step {manifest.step}; {mend}")


def warn_of_other_versions(manifest: ArtifactManifest, versions: dict[str, str]) -> None:
    """Say so where the checkpoint was made by other libraries: it goes on, but not to the last bit."""
    differing = [f"{name} {manifest.versions.get(name)} -> {now}" for name, now in versions.items() if manifest.versions.get(name) != now]
    if differing:
        logger.warning("the checkpoint was made by other versions (%s); losses may differ slightly", ", ".join(differing))
