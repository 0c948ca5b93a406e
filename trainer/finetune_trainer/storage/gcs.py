"""Objects of Google Cloud Storage, by Google's own client."""

import io
import json
from pathlib import Path
from typing import Any, Final

from finetune_trainer.errors import ConfigInvalid
from finetune_trainer.storage.credentials import Credentials
from finetune_trainer.storage.faults import Role
from finetune_trainer.storage.retry import RetryPolicy
from finetune_trainer.storage.store import Advance, Store, StoredFile, check_relative

_CHUNK: Final = 16 * 2**20
"""Bytes sent or asked for at once; a multiple of 256 KiB, as the service wants it."""


class GcsStore(Store):
    """Objects below ``gs://bucket/prefix``. An object appears whole or not at all; the client checks its CRC32C."""

    def __init__(
        self, uri: str, role: Role, bucket: str, prefix: str, credentials: Credentials, endpoint_url: str | None, policy: RetryPolicy
    ) -> None:
        super().__init__(uri, role, policy)
        self._prefix = prefix.strip("/")
        self._bucket = build_client(credentials, endpoint_url).bucket(bucket)
        self._options: dict[str, Any] = {"timeout": (policy.connect_timeout, policy.read_timeout), "retry": None}

    def _key(self, path: str) -> str:
        return "/".join(part for part in (self._prefix, path) if part)

    def _list(self, folder: str) -> list[StoredFile]:
        start = self._key(folder)
        blobs = self._bucket.client.list_blobs(self._bucket, prefix=f"{start}/" if start else None, **self._options)
        cut = len(self._prefix) + 1 if self._prefix else 0
        return [StoredFile(check_relative(blob.name[cut:]), int(blob.size)) for blob in blobs if not blob.name.endswith("/")]

    def _find(self, path: str) -> StoredFile | None:
        blob = self._bucket.get_blob(self._key(path), **self._options)
        return None if blob is None else StoredFile(path, int(blob.size))

    def _read(self, path: str) -> bytes:
        return bytes(self._bucket.blob(self._key(path)).download_as_bytes(**self._options))

    def _read_range(self, path: str, start: int, end: int) -> bytes:
        return bytes(self._bucket.blob(self._key(path)).download_as_bytes(start=start, end=end - 1, **self._options))

    def _download(self, path: str, part: Path, advance: Advance) -> int | None:
        blob = self._bucket.blob(self._key(path), chunk_size=_CHUNK)
        with part.open("wb") as file:
            blob.download_to_file(_Counting(file, advance), **self._options)
        return int(blob.size) if blob.size is not None else None

    def _upload(self, source: Path, path: str, advance: Advance) -> None:
        blob = self._bucket.blob(self._key(path), chunk_size=_CHUNK)
        with source.open("rb") as file:
            blob.upload_from_file(_Counting(file, advance), size=source.stat().st_size, checksum="crc32c", **self._options)

    def _write(self, content: bytes, path: str) -> None:
        self._bucket.blob(self._key(path)).upload_from_file(io.BytesIO(content), size=len(content), checksum="crc32c", **self._options)

    def _delete(self, path: str) -> None:
        from google.api_core.exceptions import NotFound  # noqa: PLC0415

        try:
            self._bucket.blob(self._key(path)).delete(**self._options)
        except NotFound:
            return

    def _clear_leftovers(self, folder: str) -> None:
        """Unfinished uploads are invisible there, cost nothing, and go after a week."""
        del folder


class _Counting:
    """A file that tells how much was moved."""

    def __init__(self, file: Any, advance: Advance) -> None:  # noqa: ANN401
        self._file = file
        self._advance = advance

    def read(self, size: int = -1) -> bytes:
        block: bytes = self._file.read(size)
        self._advance(len(block))
        return block

    def write(self, block: bytes) -> int:
        self._advance(len(block))
        return int(self._file.write(block))

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        return getattr(self._file, name)


def build_client(credentials: Credentials, endpoint_url: str | None) -> Any:  # noqa: ANN401
    """Build the client: by a service account's key, else anonymous at an endpoint of one's own, else by the pod's workload identity.

    :raises ConfigInvalid: the key can't be read, or there is no identity at all.
    """
    from google.auth.credentials import AnonymousCredentials  # noqa: PLC0415  runs without this store need none of it
    from google.auth.exceptions import DefaultCredentialsError  # noqa: PLC0415
    from google.cloud import storage  # noqa: PLC0415
    from google.oauth2 import service_account  # noqa: PLC0415

    options = {"api_endpoint": endpoint_url} if endpoint_url else None
    if credentials.google_key:
        try:
            key = json.loads(credentials.google_key)
            identity = service_account.Credentials.from_service_account_info(  # type: ignore[no-untyped-call]
                key, scopes=["https://www.googleapis.com/auth/devstorage.read_write"]
            )
        except (ValueError, KeyError, TypeError):
            raise ConfigInvalid("GOOGLE_APPLICATION_CREDENTIALS_JSON in the Secret is not the JSON key of a service account") from None
        return storage.Client(project=key.get("project_id", "none"), credentials=identity, client_options=options)
    if endpoint_url:
        return storage.Client(project="none", credentials=AnonymousCredentials(), client_options=options)  # type: ignore[no-untyped-call]
    try:
        return storage.Client()
    except (DefaultCredentialsError, OSError) as error:
        raise ConfigInvalid(
            "gs:// needs credentials: put a service account's key in GOOGLE_APPLICATION_CREDENTIALS_JSON of the Secret, or give the "
            f"namespace's ServiceAccount a workload identity ({str(error).splitlines()[0]})"
        ) from None
