"""Checkpoints of one run in its output: published, listed, rotated and fetched by the same manifest rule as artifacts."""

import logging
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from finetune_api.artifact import MANIFEST_NAME, Artifact, ArtifactManifest
from finetune_trainer.artifacts.publish import DamagedArtifact, ManifestFields, download_verified, publish, read_manifest
from finetune_trainer.errors import ConfigInvalid
from finetune_trainer.storage.store import Store

logger = logging.getLogger(__name__)

FOLDER: Final = "checkpoints"
_STEP = re.compile(r"^step-(\d{8,})$")


@dataclass(frozen=True, slots=True)
class FetchedCheckpoint:
    """A checkpoint on this machine, verified."""

    path: Path
    """Folder with its files."""
    step: int
    """Optimizer steps done."""
    manifest: ArtifactManifest


class CheckpointStore:
    """The checkpoints of the run ``job_uid`` at ``<output.uri>/checkpoints/<job_uid>/step-00000100/``.

    Has no state of its own: several threads, and pods one after the other, may use it.
    """

    def __init__(self, store: Store, job_uid: str) -> None:
        if not re.fullmatch(r"[A-Za-z0-9._-]+", job_uid) or set(job_uid) == {"."}:
            raise ConfigInvalid(f"job.uid {job_uid!r} can't be part of a path; use letters, digits, dots and dashes")
        self._store = store
        self._uid = job_uid
        self._prefix = f"{FOLDER}/{job_uid}"

    def locate(self, step: int) -> str:
        """Return the path of the checkpoint of ``step`` in the store."""
        return f"{self._prefix}/step-{step:08d}"

    def publish(self, folder: Path, fields: ManifestFields, *, read_back_max_bytes: int = 0) -> Artifact:
        """Publish ``folder`` as the checkpoint of ``fields.step``. See :func:`~finetune_trainer.artifacts.publish.publish`.

        By default sizes are checked and digests are not read back: the grace period may be running, and the next pod compares every
        digest before it resumes. Killed before the manifest is written, this leaves an incomplete checkpoint, which is never resumed from
        and goes with the next :meth:`rotate`.
        """
        return publish(folder, self._store, self.locate(fields.step), fields, read_back_max_bytes=read_back_max_bytes)

    def list_steps(self) -> list[int]:
        """Return the steps of the complete checkpoints (manifest present), newest first."""
        names = {file.path.removeprefix(f"{self._prefix}/") for file in self._store.list_files(self._prefix)}
        folders = {name.split("/", 1)[0] for name in names if name.endswith(f"/{MANIFEST_NAME}") and name.count("/") == 1}
        return sorted((int(match[1]) for folder in folders if (match := _STEP.match(folder))), reverse=True)

    def download_newest(self, folder: Path) -> FetchedCheckpoint | None:
        """Download the newest checkpoint that is whole and this run's own into ``folder/step-…``; None where there is none.

        One that is damaged, or another run's, is logged and passed over for the next older one. Killed at any moment, this leaves files
        that the next call completes or replaces.

        :raises StorageFailed: the store itself failed, and a checkpoint may be there unread: starting from step 0 would lose it.
        """
        for step in self.list_steps():
            prefix = self.locate(step)
            target = folder / f"step-{step:08d}"
            try:
                manifest = self._check_own(prefix, step)
                download_verified(self._store, prefix, target)
            except DamagedArtifact as error:
                logger.warning("checkpoint passed over: %s", error)
                shutil.rmtree(target, ignore_errors=True)
                continue
            return FetchedCheckpoint(target, step, manifest)
        return None

    def publish_tokens(self, key: str, folder: Path, fields: ManifestFields) -> None:
        """Keep the tokenised data in ``folder`` beside the checkpoints; :meth:`delete_all` deletes them with those.

        Killed before the manifest is written, this leaves files that are never read.
        """
        publish(folder, self._store, self._locate_tokens(key), fields, read_back_max_bytes=0)

    def download_tokens(self, key: str, folder: Path) -> bool:
        """Download the tokenised data of this ``key`` that the run has kept; return whether there are any, whole and its own."""
        prefix = self._locate_tokens(key)
        try:
            manifest = read_manifest(self._store, prefix)
            if manifest is None:
                return False
            if manifest.kind != "tokens" or manifest.job_uid != self._uid:
                raise DamagedArtifact(f"{self._store.locate(prefix)} is the {manifest.kind} of run {manifest.job_uid}, not this run's")
            download_verified(self._store, prefix, folder)
        except DamagedArtifact as error:
            logger.warning("kept data passed over: %s", error)
            shutil.rmtree(folder, ignore_errors=True)
            return False
        return True

    def _locate_tokens(self, key: str) -> str:
        return f"{self._prefix}/tokens-{key[:32]}"

    def _check_own(self, prefix: str, step: int) -> ArtifactManifest:
        manifest = read_manifest(self._store, prefix)
        if manifest is None:
            raise DamagedArtifact(f"{self._store.locate(prefix)} has no {MANIFEST_NAME}")
        if manifest.kind != "checkpoint" or manifest.job_uid != self._uid or manifest.step != step:
            raise DamagedArtifact(
                f"{self._store.locate(prefix)} is the {manifest.kind} of step {manifest.step} of run {manifest.job_uid}, not this run's"
            )
        return manifest

    def rotate(self, keep: int) -> list[int]:
        """Delete all but the newest ``keep`` complete checkpoints, and incomplete ones older than the newest; return the deleted steps.

        The manifest of each goes first. Killed midway, what is left has no manifest and goes with the next call.
        """
        complete = self.list_steps()
        if not complete:
            return []
        kept = set(complete[:keep])
        present = {
            int(match[1])
            for file in self._store.list_files(self._prefix)
            if (match := _STEP.match(file.path.removeprefix(f"{self._prefix}/").split("/", 1)[0]))
        }
        doomed = sorted(step for step in present if step not in kept and step < complete[0])
        for step in doomed:
            self._delete(self.locate(step))
        return doomed

    def delete_all(self) -> None:
        """Delete every checkpoint of this run. Killed midway, some stay; call again."""
        for step in self.list_steps():
            self._store.delete([f"{self.locate(step)}/{MANIFEST_NAME}"])
        self._store.delete_folder(self._prefix)

    def _delete(self, prefix: str) -> None:
        self._store.delete([f"{prefix}/{MANIFEST_NAME}"])
        self._store.delete_folder(prefix)
