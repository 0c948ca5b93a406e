"""Model and dataset repositories of a hub (``hf://organisation/name``), by its own client. Nothing of a repository is executed."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from huggingface_hub import HfApi, hf_hub_download
from huggingface_hub.errors import HFValidationError

from finetune_api.uri import parse_uri
from finetune_trainer.errors import ConfigInvalid
from finetune_trainer.storage.credentials import Credentials
from finetune_trainer.storage.faults import Role, SizeMismatch, build_error
from finetune_trainer.storage.retry import RetryPolicy, call_with_retry
from finetune_trainer.storage.store import StoredFile, check_free_space
from finetune_trainer.storage.transfer import format_bytes, in_parallel

T = TypeVar("T")
logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class HubListing:
    """A repository at one commit."""

    commit: str
    """Commit that the revision resolved to."""
    files: list[StoredFile]
    """Its files; a size is 0 where the hub doesn't say."""
    card: dict[str, Any] = field(default_factory=dict)
    """Metadata at the head of its README."""


class HubRepository:
    """One repository of a hub."""

    def __init__(
        self,
        uri: str,
        kind: Literal["model", "dataset"],
        role: Role,
        credentials: Credentials,
        endpoint_url: str | None = None,
        policy: RetryPolicy | None = None,
    ) -> None:
        location = parse_uri(uri)
        self.uri = uri
        self._name = f"{location.authority}/{location.path}"
        self._kind = kind
        self._role: Role = role
        self._policy = policy or RetryPolicy()
        self._token = credentials.hub_token
        self._endpoint = (endpoint_url or credentials.hub_endpoint or "").rstrip("/") or None

    def list_files(self, revision: str | None) -> HubListing:
        """Return the files of ``revision`` (a branch, tag or commit; the main branch if None) and the commit that it is now.

        :raises SourceUnavailable: there is no such repository or revision, or the token doesn't reach it.
        """
        api = HfApi(endpoint=self._endpoint, token=self._token)
        info = self._try(
            "listing",
            lambda: api.repo_info(
                self._name, revision=revision, repo_type=self._kind, files_metadata=True, timeout=self._policy.read_timeout
            ),
        )
        card = getattr(info, "card_data", None)
        return HubListing(
            commit=str(info.sha),
            files=[StoredFile(file.rfilename, file.size or 0) for file in getattr(info, "siblings", None) or []],
            card=card.to_dict() if card is not None else {},
        )

    def read(self, path: str, commit: str, folder: Path) -> bytes:
        """Return the content of one small file; it stays in ``folder``."""
        return self._try("downloading", lambda: self._fetch(path, commit, folder)).read_bytes()

    def download(self, files: Sequence[StoredFile], commit: str, folder: Path) -> None:
        """Download ``files`` at ``commit`` to the same paths below ``folder``. What is there already, whole, is kept.

        Killed at any moment, this leaves unfinished files under ``.cache`` in ``folder``, which the next call goes on with.
        """
        needed = sum(file.size for file in files if not _has_size(folder / file.path, file.size))
        check_free_space(folder, needed, f"{self.uri} ({format_bytes(needed)} to download)")
        logger.info("downloading %s at %s: %d files, %s", self.uri, commit, len(files), format_bytes(needed))
        in_parallel([self._bind(file, commit, folder) for file in files])

    def _bind(self, file: StoredFile, commit: str, folder: Path) -> Callable[[], None]:
        def fetch() -> None:
            local = self._fetch(file.path, commit, folder)
            if file.size and local.stat().st_size != file.size:
                local.unlink()
                raise SizeMismatch(f"got {file.path} with another size than the hub's listing has")

        return lambda: self._try("downloading", fetch)

    def _fetch(self, path: str, commit: str, folder: Path) -> Path:
        return Path(
            hf_hub_download(
                self._name,
                path,
                repo_type=self._kind,
                revision=commit,
                local_dir=folder,
                token=self._token,
                endpoint=self._endpoint,
                etag_timeout=self._policy.connect_timeout,
            )
        )

    def _try(self, doing: str, operation: Callable[[], T]) -> T:
        try:
            return call_with_retry(operation, f"{doing} {self.uri}", self._policy, self._policy.deadline())
        except HFValidationError as error:
            raise ConfigInvalid(f"{self.uri} names no repository: {error}. Write hf://organisation/name") from None
        except Exception as error:
            fault = build_error(error, self.uri, self._role, doing)
            raise fault from error


def _has_size(file: Path, size: int) -> bool:
    return file.is_file() and file.stat().st_size == size
