"""Stores behind fsspec: S3 and its compatibles, and HTTPS."""

import ssl
from pathlib import Path
from typing import Any

import aiohttp
from fsspec.callbacks import Callback
from fsspec.implementations.http import HTTPFileSystem

from finetune_trainer.errors import ConfigInvalid
from finetune_trainer.storage.credentials import Credentials
from finetune_trainer.storage.faults import Fault, Role, classify
from finetune_trainer.storage.retry import RetryPolicy
from finetune_trainer.storage.store import Advance, Store, StoredFile, check_relative

PART_BYTES = 16 * 2**20
"""Size of a part of a multipart upload and of a ranged read. S3 takes 10,000 parts, and s3fs raises this for larger files."""
_PARTS_AT_ONCE = 4


class _Progress(Callback):  # type: ignore[misc]  # fsspec has no types
    def __init__(self, advance: Advance) -> None:
        super().__init__()
        self._advance = advance

    def relative_update(self, inc: int = 1) -> None:
        self._advance(inc)


class S3Store(Store):
    """Objects below ``s3://bucket/prefix``. An object appears whole or not at all."""

    def __init__(
        self, uri: str, role: Role, bucket: str, prefix: str, credentials: Credentials, endpoint_url: str | None, policy: RetryPolicy
    ) -> None:
        super().__init__(uri, role, policy)
        self._root = f"{bucket}/{prefix}".rstrip("/")
        self._fs = _build_s3(credentials, endpoint_url or credentials.s3_endpoint_url, policy)

    def _key(self, path: str) -> str:
        return f"{self._root}/{path}" if path else self._root

    def _list(self, folder: str) -> list[StoredFile]:
        found: list[StoredFile] = []
        try:
            entries: dict[str, Any] = self._fs.find(self._key(folder), detail=True)
        except FileNotFoundError:
            if self._fs.exists(self._root.split("/", 1)[0]):
                return []
            raise
        for key, entry in entries.items():
            path = key.removeprefix(self._root).lstrip("/")
            if path and path != folder and not key.endswith("/") and entry["type"] == "file":
                found.append(StoredFile(check_relative(path), int(entry["size"])))
        return found

    def _find(self, path: str) -> StoredFile | None:
        try:
            entry = self._fs.info(self._key(path))
        except FileNotFoundError:
            return None
        return StoredFile(path, int(entry["size"])) if entry["type"] == "file" else None

    def _read(self, path: str) -> bytes:
        return bytes(self._fs.cat_file(self._key(path)))

    def _read_range(self, path: str, start: int, end: int) -> bytes:
        return bytes(self._fs.cat_file(self._key(path), start=start, end=end))

    def _download(self, path: str, part: Path, advance: Advance) -> int | None:
        size = int(self._fs.info(self._key(path))["size"])
        self._fs.get_file(self._key(path), str(part), callback=_Progress(advance))
        return size

    def _upload(self, source: Path, path: str, advance: Advance) -> None:
        self._fs.put_file(str(source), self._key(path), callback=_Progress(advance), chunksize=PART_BYTES, max_concurrency=_PARTS_AT_ONCE)

    def _write(self, content: bytes, path: str) -> None:
        self._fs.pipe_file(self._key(path), content)

    def _delete(self, path: str) -> None:
        try:
            self._fs.rm_file(self._key(path))
        except FileNotFoundError:
            return

    def _clear_leftovers(self, folder: str) -> None:
        bucket, _, prefix = self._key(folder).partition("/")
        listing = self._fs.call_s3("list_multipart_uploads", Bucket=bucket, Prefix=f"{prefix}/" if prefix else "")
        for upload in listing.get("Uploads") or []:
            self._fs.call_s3("abort_multipart_upload", Bucket=bucket, Key=upload["Key"], UploadId=upload["UploadId"])


def _build_s3(credentials: Credentials, endpoint_url: str | None, policy: RetryPolicy) -> Any:  # noqa: ANN401
    from s3fs import S3FileSystem  # noqa: PLC0415  botocore takes a second to import; runs without S3 need none of it

    client: dict[str, Any] = {}
    if credentials.region:
        client["region_name"] = credentials.region
    config: dict[str, Any] = {
        "connect_timeout": policy.connect_timeout,
        "read_timeout": policy.read_timeout,
        "retries": {"total_max_attempts": 1, "mode": "standard"},  # retries are this package's, under one deadline
        "max_pool_connections": 64,
    }
    if endpoint_url:
        config["s3"] = {"addressing_style": "path"}
    file_system = S3FileSystem(
        key=credentials.access_key_id,
        secret=credentials.secret_access_key,
        token=credentials.session_token,
        endpoint_url=endpoint_url,
        client_kwargs=client,
        config_kwargs=config,
        default_block_size=PART_BYTES,
        max_concurrency=_PARTS_AT_ONCE,
        skip_instance_cache=True,
        use_listings_cache=False,
    )
    file_system.retries = 1
    return file_system


class HttpStore(Store):
    """Files on an HTTPS server, read only, and without a listing."""

    def __init__(self, uri: str, role: Role, credentials: Credentials, policy: RetryPolicy) -> None:
        super().__init__(uri, role, policy)
        headers = {"Accept-Encoding": "identity"}  # a compressed answer's length would not be the file's
        if credentials.bearer_token:
            headers["Authorization"] = f"Bearer {credentials.bearer_token}"
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=policy.connect_timeout, sock_read=policy.read_timeout)
        self._fs = HTTPFileSystem(
            client_kwargs={"headers": headers, "timeout": timeout, "trust_env": True},
            ssl=ssl.create_default_context(),  # made now: aiohttp's own is made at import, before SSL_CERT_FILE may be set
            skip_instance_cache=True,
            use_listings_cache=False,
        )

    def _list(self, folder: str) -> list[StoredFile]:
        raise ConfigInvalid(f"{self.locate(folder)} is a folder on a web server, which can't be listed; name a file in it")

    def _find(self, path: str) -> StoredFile | None:
        try:
            entry = self._fs.info(self.locate(path))
        except FileNotFoundError as error:
            # fsspec makes every failed HEAD and GET a FileNotFoundError; only where the server says so it is one
            if error.__cause__ is not None and classify(error.__cause__) is not Fault.MISSING:
                raise error.__cause__ from None
            return None
        return StoredFile(path, int(entry["size"] or 0))

    def _read(self, path: str) -> bytes:
        return bytes(self._fs.cat_file(self.locate(path)))

    def _read_range(self, path: str, start: int, end: int) -> bytes:
        return bytes(self._fs.cat_file(self.locate(path), start=start, end=end))

    def _download(self, path: str, part: Path, advance: Advance) -> int | None:
        progress = _Progress(advance)
        self._fs.get_file(self.locate(path), str(part), callback=progress)
        return int(progress.size) if progress.size is not None else None

    def _upload(self, source: Path, path: str, advance: Advance) -> None:
        del source, advance
        raise ConfigInvalid(f"{self.locate(path)} can't be written: https:// is for reading; write to s3:// or pvc://")

    def _write(self, content: bytes, path: str) -> None:
        del content
        raise ConfigInvalid(f"{self.locate(path)} can't be written: https:// is for reading; write to s3:// or pvc://")

    def _delete(self, path: str) -> None:
        raise ConfigInvalid(f"{self.locate(path)} can't be deleted: https:// is for reading")

    def _clear_leftovers(self, folder: str) -> None:
        del folder
