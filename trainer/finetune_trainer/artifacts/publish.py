"""Publishing a folder as an artifact: its files first, ``manifest.json`` last; and checking one that is there."""

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import ValidationError

from finetune_api.artifact import MANIFEST_NAME, Artifact, ArtifactManifest, ManifestFile
from finetune_api.progress import HarnessScore, TaskScore
from finetune_trainer.errors import StorageFailed
from finetune_trainer.storage.digest import digest_bytes, digest_files
from finetune_trainer.storage.store import Store, StoredFile, check_relative
from finetune_trainer.storage.transfer import download_files, in_parallel, upload_files

logger = logging.getLogger(__name__)


class DamagedArtifact(StorageFailed):
    """What lies at a prefix is no artifact: no manifest, or files that don't match it. The store itself answered."""


ArtifactFormat = Literal["peft", "transformers", "gguf", "compressed-tensors", "trainer-checkpoint", "arrow"]
_FORMATS: Final[dict[str, ArtifactFormat]] = {
    "adapter": "peft",
    "model": "transformers",
    "merged": "transformers",
    "gguf": "gguf",
    "gptq": "compressed-tensors",
    "checkpoint": "trainer-checkpoint",
    "tokens": "arrow",
}
MANIFEST_MAX_BYTES = 4 * 2**20
READ_BACK_MAX_BYTES = 2 * 2**30
"""Files up to this size are read back after the upload, and their digests compared. Of larger ones only the size is: the client sends a
checksum with every part of an upload, and the server refuses a part that doesn't match."""


@dataclass(frozen=True, slots=True)
class ManifestFields:
    """What a manifest says besides its files. See :class:`~finetune_api.artifact.ArtifactManifest`."""

    kind: Literal["adapter", "model", "merged", "gguf", "gptq", "checkpoint", "tokens"]
    job_uid: str
    job_namespace: str
    job_name: str
    attempt: int
    step: int
    total_steps: int
    base_model_uri: str
    versions: dict[str, str]
    config: dict[str, Any]
    base_model_revision: str | None = None
    base_model_digest: str | None = None
    dataset_digest: str | None = None
    metrics: dict[str, float] | None = None
    tasks: list[TaskScore] = field(default_factory=list)
    harness: list[HarnessScore] = field(default_factory=list)

    @property
    def format(self) -> ArtifactFormat:
        """How the files are to be read."""
        return _FORMATS[self.kind]


def build_manifest(fields: ManifestFields, files: list[ManifestFile], now: datetime) -> ArtifactManifest:
    """Build the manifest of ``files``."""
    return ArtifactManifest(
        kind=fields.kind,
        format=fields.format,
        files=sorted(files, key=lambda file: file.path),
        job_uid=fields.job_uid,
        job_namespace=fields.job_namespace,
        job_name=fields.job_name,
        attempt=fields.attempt,
        step=fields.step,
        total_steps=fields.total_steps,
        base_model_uri=fields.base_model_uri,
        base_model_revision=fields.base_model_revision,
        base_model_digest=fields.base_model_digest,
        dataset_digest=fields.dataset_digest,
        versions=fields.versions,
        metrics=fields.metrics or {},
        tasks=fields.tasks,
        harness=fields.harness,
        config=fields.config,
        created_time=now,
    )


def encode_manifest(manifest: ArtifactManifest) -> bytes:
    """Return the manifest as it is stored: JSON in UTF-8, indented, keys in the order of the model."""
    return (json.dumps(manifest.model_dump(mode="json", by_alias=True, exclude_none=True), indent=2, ensure_ascii=False) + "\n").encode()


def publish(folder: Path, store: Store, prefix: str, fields: ManifestFields, *, read_back_max_bytes: int = READ_BACK_MAX_BYTES) -> Artifact:
    """Publish every file below ``folder`` as an artifact at ``prefix`` of ``store``, and verify it there.

    In this order: the manifest that is there is deleted, so that nothing half replaced can be taken for an artifact; the files are
    uploaded; files of an older artifact that this one doesn't have are deleted; the manifest is written; everything is verified. Each
    file is replaced in one step. ``manifest.json`` in ``folder`` itself is left out.

    Killed before the manifest is written, this leaves files without a manifest, which is no artifact: call again. Killed after, the
    artifact is complete. It may be called again at any time, with the same result. Two publishers at one ``prefix`` at the same time are
    not guarded against; the operator runs one pod of a run at a time, and another run's output is another URI.

    :param read_back_max_bytes: see :data:`READ_BACK_MAX_BYTES`; 0 checks sizes and the manifest only.
    :raises StorageFailed: the store failed, or what lies there is not what was sent.
    """
    paths = _files_of(folder)
    if not paths:
        raise StorageFailed(f"nothing to publish at {store.locate(prefix)}: {folder} has no files")
    digests = digest_files({path: folder / path for path in paths})
    files = [ManifestFile(path=path, size_bytes=(folder / path).stat().st_size, digest=digests[path]) for path in paths]
    manifest = build_manifest(fields, files, datetime.now(UTC))
    content = encode_manifest(manifest)

    store.delete([f"{prefix}/{MANIFEST_NAME}"])
    store.clear_leftovers(prefix)
    upload_files(store, folder, paths, prefix)
    kept = {f"{prefix}/{path}" for path in paths}
    store.delete(file.path for file in store.list_files(prefix) if file.path not in kept)
    store.write(content, f"{prefix}/{MANIFEST_NAME}")

    found = verify(store, prefix, digest_max_bytes=read_back_max_bytes)
    if encode_manifest(found) != content:
        raise DamagedArtifact(f"{store.locate(prefix)}/{MANIFEST_NAME} is not the one just written; is another run writing to output.uri?")
    logger.info("published %s: %d files, manifest %s", store.locate(prefix), len(files), digest_bytes(content))
    return build_artifact(store.locate(prefix), manifest, content)


def build_artifact(uri: str, manifest: ArtifactManifest, content: bytes) -> Artifact:
    """Build what status shows of the artifact at ``uri`` whose manifest reads ``content``."""
    revision = f"@{manifest.base_model_revision}" if manifest.base_model_revision else ""
    return Artifact(
        name=manifest.kind,
        format=manifest.format,
        uri=uri,
        digest=digest_bytes(content),
        size_bytes=sum(file.size_bytes for file in manifest.files),
        base_model=f"{manifest.base_model_uri}{revision}",
        created_time=manifest.created_time,
    )


def read_manifest(store: Store, prefix: str) -> ArtifactManifest | None:
    """Return the manifest at ``prefix``, or None where there is none.

    :raises DamagedArtifact: what is there is no manifest, or names files outside its folder.
    """
    content = store.read(f"{prefix}/{MANIFEST_NAME}", MANIFEST_MAX_BYTES)
    if content is None:
        return None
    try:
        manifest = ArtifactManifest.model_validate_json(content)
    except ValidationError as error:
        raise DamagedArtifact(
            f"{store.locate(prefix)}/{MANIFEST_NAME} is not a manifest: {error.error_count()} faults, {error.errors()[0]['msg']}"
        ) from None
    try:
        for file in manifest.files:
            check_relative(file.path)
    except StorageFailed as error:
        raise DamagedArtifact(f"{store.locate(prefix)}/{MANIFEST_NAME}: {error}") from None
    return manifest


def verify(store: Store, prefix: str, *, digest_max_bytes: int = READ_BACK_MAX_BYTES) -> ArtifactManifest:
    """Return the manifest at ``prefix`` after comparing the store's files with it: each must be there in its size, and those of at most
    ``digest_max_bytes`` bytes must have its digest.

    :raises DamagedArtifact: there is no manifest, or a file differs; the message names the files.
    """
    manifest = read_manifest(store, prefix)
    if manifest is None:
        raise DamagedArtifact(f"{store.locate(prefix)} has no {MANIFEST_NAME}: the artifact is incomplete")
    sizes = {file.path: file.size for file in store.list_files(prefix)}
    faults: list[str] = []
    for file in manifest.files:
        size = sizes.get(f"{prefix}/{file.path}")
        if size is None:
            faults.append(f"{file.path} is missing")
        elif size != file.size_bytes:
            faults.append(f"{file.path} has {size} bytes instead of {file.size_bytes}")
    if not faults:
        small = [file for file in manifest.files if file.size_bytes <= digest_max_bytes]
        in_parallel([_compare(store, prefix, file, faults) for file in small], workers=4)
    if faults:
        raise DamagedArtifact(f"{store.locate(prefix)} doesn't match its manifest: {'; '.join(sorted(faults)[:10])}")
    return manifest


def _compare(store: Store, prefix: str, file: ManifestFile, faults: list[str]) -> Callable[[], None]:
    def compare() -> None:
        digest = store.digest(f"{prefix}/{file.path}", file.size_bytes)
        if digest != file.digest:
            faults.append(f"{file.path} has the digest {digest} instead of {file.digest}")

    return compare


def download_verified(store: Store, prefix: str, folder: Path) -> ArtifactManifest:
    """Download the artifact at ``prefix`` into ``folder`` and compare every file with the manifest, whatever its size.

    Killed at any moment, this leaves files in ``folder`` that the next call keeps or replaces: they are compared all the same.

    :raises DamagedArtifact: there is no manifest, or a file is missing or differs (it is deleted from ``folder`` then).
    :raises StorageFailed: the store failed.
    """
    manifest = read_manifest(store, prefix)
    if manifest is None:
        raise DamagedArtifact(f"{store.locate(prefix)} has no {MANIFEST_NAME}: there is no artifact")
    sizes = {file.path: file.size for file in store.list_files(prefix)}
    if faults := [file.path for file in manifest.files if sizes.get(f"{prefix}/{file.path}") != file.size_bytes]:
        raise DamagedArtifact(f"{store.locate(prefix)}: {', '.join(faults[:10])} are missing or differ in size from the manifest")
    download_files(store, [StoredFile(file.path, file.size_bytes) for file in manifest.files], folder, prefix)
    digests = digest_files({file.path: folder / file.path for file in manifest.files})
    faults = [file.path for file in manifest.files if digests[file.path] != file.digest]
    for path in faults:
        (folder / path).unlink()
    if faults:
        raise DamagedArtifact(f"{store.locate(prefix)}: the digests of {', '.join(faults[:10])} are not the manifest's")
    return manifest


def _files_of(folder: Path) -> list[str]:
    files = (file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())
    return sorted(path for path in files if path != MANIFEST_NAME)
