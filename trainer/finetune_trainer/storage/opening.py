"""From a URI to the store that it names."""

import os
from pathlib import Path
from typing import Final

from finetune_api.names import PVC_MOUNT_ROOT
from finetune_api.uri import LOCAL_SCHEME, parse_uri
from finetune_trainer.errors import ConfigInvalid
from finetune_trainer.storage.credentials import Credentials
from finetune_trainer.storage.faults import Role
from finetune_trainer.storage.local import LocalStore
from finetune_trainer.storage.retry import RetryPolicy
from finetune_trainer.storage.store import Store

ENV_ROOT: Final = "FINETUNE_ROOT"
"""Folder that stands for ``/`` where a pod runs as a plain process without mounts: in a development cluster on a machine that can run
no containers."""


def _find_volume_root() -> str:
    return os.environ.get(ENV_ROOT, "").rstrip("/") + PVC_MOUNT_ROOT


def open_store(
    uri: str,
    role: Role,
    credentials: Credentials | None = None,
    endpoint_url: str | None = None,
    policy: RetryPolicy | None = None,
    volume_root: str | None = None,
) -> Store:
    """Return the store that ``uri`` (``s3``, ``gs``, ``https``, ``file`` or ``pvc``) names. Nothing is contacted yet.

    :param endpoint_url: endpoint of an S3-compatible store; goes before the one in ``credentials``. Such stores are addressed by path.
    :param volume_root: folder that claims are mounted in: by default the one that the operator mounts them in.
    :raises ConfigInvalid: the URI is malformed, or names a hub, which is no store of files: see :mod:`finetune_trainer.storage.hub`.
    """
    credentials, policy = credentials or Credentials(), policy or RetryPolicy()
    try:
        location = parse_uri(uri)
    except ValueError as error:
        raise ConfigInvalid(f"{role} URI {error}") from None
    if location.scheme == LOCAL_SCHEME:
        return LocalStore(uri, role, Path(location.path), policy)
    if location.scheme == "pvc":
        return LocalStore(uri, role, Path(volume_root or _find_volume_root(), location.authority, location.path), policy)
    if location.scheme == "gs":
        from finetune_trainer.storage.gcs import GcsStore  # noqa: PLC0415  as below

        return GcsStore(uri, role, location.authority, location.path, credentials, endpoint_url, policy)
    if location.scheme in ("s3", "https"):
        from finetune_trainer.storage.remote import HttpStore, S3Store  # noqa: PLC0415  local runs need no network client

        if location.scheme == "s3":
            return S3Store(uri, role, location.authority, location.path, credentials, endpoint_url, policy)
        return HttpStore(uri, role, credentials, policy)
    raise ConfigInvalid(f"{role} URI {uri} has the scheme {location.scheme}://, which can't be opened as a folder of files")
