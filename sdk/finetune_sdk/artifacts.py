"""Downloading what a run has published, with every digest checked.

Needs fsspec, and s3fs for ``s3://`` (the extra ``cli`` has both). Credentials are yours: the environment's (``AWS_…``), your profile, or
values given by name.
"""

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, Final

from finetune_api.artifact import MANIFEST_NAME, Artifact, ArtifactManifest, ManifestFile
from finetune_api.uri import parse_uri
from finetune_sdk.errors import ArtifactDamaged, ArtifactUnreachable

CHUNK_BYTES: Final = 4 * 2**20
MANIFEST_MAX_BYTES: Final = 16 * 2**20
Note = Callable[[str, int], None]
"""Told the path of each file and the bytes of it that came."""


def download_artifact(
    artifact: Artifact,
    folder: Path,
    *,
    endpoint_url: str | None = None,
    credentials: Mapping[str, str] | None = None,
    note: Note = lambda _path, _count: None,
) -> ArtifactManifest:
    """Bring all files of ``artifact`` into ``folder``, and its manifest last. Files that are there and whole are not fetched again.

    :param endpoint_url: of an S3-compatible store.
    :param credentials: keys as in a Secret named in ``credentialsSecret``; the environment's where there are none.
    :raises ArtifactDamaged: a digest doesn't match. Nothing that is damaged is left in ``folder`` under its name.
    :raises ArtifactUnreachable: the store can't be reached from here, or refuses.
    """
    with _reaching(artifact.uri):
        files, root = _open(artifact.uri, endpoint_url, credentials or {})
        content = _read_small(files, f"{root}/{MANIFEST_NAME}")
        found = f"sha256:{hashlib.sha256(content).hexdigest()}"
        if found != artifact.digest:
            raise ArtifactDamaged(f"{artifact.uri}/{MANIFEST_NAME} has the digest {found}, but the run published {artifact.digest}")
        try:
            manifest = ArtifactManifest.model_validate_json(content)
        except ValueError as error:
            raise ArtifactDamaged(f"{artifact.uri}/{MANIFEST_NAME} can't be read: {error}") from None
        folder.mkdir(parents=True, exist_ok=True)
        for file in manifest.files:
            _fetch(files, root, file, _target(folder, file.path), note)
    (folder / MANIFEST_NAME).write_bytes(content)
    return manifest


def _fetch(files: Any, root: str, file: ManifestFile, target: Path, note: Note) -> None:  # noqa: ANN401  # fsspec is not typed
    if target.is_file() and target.stat().st_size == file.size_bytes and _digest(target) == file.digest:
        note(file.path, file.size_bytes)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    digest = hashlib.sha256()
    try:
        with files.open(f"{root}/{file.path}", "rb") as source, partial.open("wb") as out:
            while chunk := source.read(CHUNK_BYTES):
                digest.update(chunk)
                out.write(chunk)
                note(file.path, len(chunk))
        if f"sha256:{digest.hexdigest()}" != file.digest:
            raise ArtifactDamaged(f"{file.path} has the digest sha256:{digest.hexdigest()}, but was published with {file.digest}")
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


def _target(folder: Path, path: str) -> Path:
    """Return where a file of the manifest goes.

    :raises ArtifactDamaged: it would leave ``folder``.
    """
    parts = PurePosixPath(path)
    if parts.is_absolute() or ".." in parts.parts or "\\" in path or path == MANIFEST_NAME:
        raise ArtifactDamaged(f"the manifest names a file outside its folder: {path!r}")
    return folder.joinpath(*parts.parts)


def _digest(path: Path) -> str:
    with path.open("rb") as stream:
        return f"sha256:{hashlib.file_digest(stream, 'sha256').hexdigest()}"


def _read_small(files: Any, path: str) -> bytes:  # noqa: ANN401
    with files.open(path, "rb") as source:
        content: bytes = source.read(MANIFEST_MAX_BYTES)
    return content


@contextmanager
def _reaching(uri: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise ArtifactUnreachable(f"{uri}: there is no {error}; was it deleted?") from None
    except ImportError as error:
        raise ArtifactUnreachable(f"{uri}: {error.name} is not installed; pip install 'finetune-operator[cli]'") from None
    except PermissionError as error:
        raise ArtifactUnreachable(f"{uri}: the store refuses: {error}; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY") from None
    except OSError as error:
        raise ArtifactUnreachable(f"{uri}: {error}") from None


def _open(uri: str, endpoint_url: str | None, credentials: Mapping[str, str]) -> tuple[Any, str]:
    """Return a file system and the path of the artifact's folder in it."""
    location = parse_uri(uri)
    if location.scheme == "pvc":
        raise ArtifactUnreachable(
            f"{uri} lies in the claim {location.authority}, which only a pod can read: start one that mounts it, and use kubectl cp"
        )
    import fsspec  # noqa: PLC0415  not needed by who only submits and watches

    if location.scheme == "file":
        return fsspec.filesystem("file"), location.path.rstrip("/")
    if location.scheme != "s3":
        raise ArtifactUnreachable(f"{uri}: artifacts can be downloaded from s3:// and file://; fetch this one by the store's own client")
    import botocore.exceptions  # noqa: PLC0415

    endpoint = (
        endpoint_url or credentials.get("AWS_ENDPOINT_URL") or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    )
    region = credentials.get("AWS_REGION")
    options = {"endpoint_url": endpoint, "region_name": region}
    try:
        files = fsspec.filesystem(
            "s3",
            key=credentials.get("AWS_ACCESS_KEY_ID"),
            secret=credentials.get("AWS_SECRET_ACCESS_KEY"),
            token=credentials.get("AWS_SESSION_TOKEN"),
            client_kwargs={name: value for name, value in options.items() if value},
            skip_instance_cache=True,
        )
    except botocore.exceptions.BotoCoreError as error:
        raise ArtifactUnreachable(f"{uri}: {error}") from None
    return files, f"{location.authority}/{location.path}"
