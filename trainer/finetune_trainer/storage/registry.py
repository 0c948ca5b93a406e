"""A repository of an OCI registry, by the distribution specification's own calls (version 1.1)."""

import base64
import hashlib
import json
import logging
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import urljoin, urlsplit

import requests

from finetune_api.uri import parse_uri
from finetune_trainer.errors import ConfigInvalid, StorageFailed
from finetune_trainer.storage.credentials import Credentials
from finetune_trainer.storage.digest import digest_bytes
from finetune_trainer.storage.faults import Role, build_error
from finetune_trainer.storage.retry import RetryPolicy, call_with_retry

T = TypeVar("T")
logger = logging.getLogger(__name__)

INDEX_TYPE: Final = "application/vnd.oci.image.index.v1+json"
MANIFEST_TYPE: Final = "application/vnd.oci.image.manifest.v1+json"
_DOCKER_TYPES: Final = (
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
_MANIFEST_MAX_BYTES: Final = 4 * 2**20
_BLOCK: Final = 2**20
_HOSTS: Final = {"docker.io": "registry-1.docker.io", "index.docker.io": "registry-1.docker.io"}
_CHALLENGE: Final = re.compile(r'(\w+)="([^"]*)"')


@dataclass(frozen=True, slots=True)
class ImageName:
    """`oci://registry/repository:tag@digest`, taken apart."""

    registry: str
    repository: str
    tag: str | None
    digest: str | None

    @property
    def reference(self) -> str:
        """What a manifest is asked for by."""
        return self.digest or self.tag or "latest"


def parse_image_name(uri: str) -> ImageName:
    """Take an ``oci://`` URI apart.

    :raises ValueError: it is none.
    """
    location = parse_uri(uri)
    path, _, digest = location.path.partition("@")
    repository, colon, tag = path.rpartition(":")
    if not colon:
        repository, tag = path, ""
    return ImageName(location.authority, repository, tag or None, digest or None)


class Registry:
    """One repository. Every call retries passing faults and names the URI in what it raises.

    Credentials go to the registry itself, and to the token service that it names, which must be reached by HTTPS wherever the registry is.

    :param endpoint_url: where the registry is reached instead of at its own name by HTTPS.
    """

    def __init__(
        self, uri: str, role: Role, credentials: Credentials, endpoint_url: str | None = None, policy: RetryPolicy | None = None
    ) -> None:
        self.uri = uri
        try:
            self.name = parse_image_name(uri)
        except ValueError as error:
            raise ConfigInvalid(f"{role} URI {error}") from None
        self._role: Role = role
        self._policy = policy or RetryPolicy()
        self._endpoint = (endpoint_url or f"https://{_HOSTS.get(self.name.registry, self.name.registry)}").rstrip("/")
        self._login = find_login(credentials, self.name.registry)
        self._session = requests.Session()
        self._token: str | None = None
        self._basic = False

    def has_blob(self, digest: str) -> bool:
        """Whether the repository has a blob."""
        return self._try("looking at", lambda: self._call("HEAD", f"blobs/{digest}", accept_missing=True).status_code == 200)

    def upload_blob(self, digest: str, size: int, read: Callable[[], Iterable[bytes]]) -> None:
        """Upload a blob of ``size`` bytes, unless it is there. Killed midway, nothing of it is visible.

        :param read: yields its content from the beginning, each time it is called.
        """
        if self.has_blob(digest):
            return

        def upload() -> None:
            begun = self._call("POST", "blobs/uploads/")
            place = urljoin(f"{self._endpoint}/", begun.headers["Location"])
            if urlsplit(place).netloc != urlsplit(self._endpoint).netloc:
                raise StorageFailed(f"{self.uri}: the registry sends uploads to another host ({urlsplit(place).netloc}); set endpointUrl")
            joined = f"{place}{'&' if '?' in place else '?'}digest={digest}"
            headers = {"Content-Type": "application/octet-stream", "Content-Length": str(size)}
            self._send("PUT", joined, headers=headers, data=_Body(read(), size))

        self._try("uploading", upload)

    def put_manifest(self, reference: str, content: bytes, media_type: str) -> str:
        """Write a manifest under a tag or its own digest, and return its digest. It appears whole, in one step."""
        digest = digest_bytes(content)
        self._try(
            "writing the manifest of",
            lambda: self._call("PUT", f"manifests/{reference}", data=content, headers={"Content-Type": media_type}),
        )
        return digest

    def get_manifest(self, reference: str) -> tuple[dict[str, Any], str]:
        """Return a manifest or index, and its digest.

        :raises SourceUnavailable: there is none (StorageFailed, where the registry is written to).
        """
        accept = ", ".join((INDEX_TYPE, MANIFEST_TYPE, *_DOCKER_TYPES))
        answer = self._try("reading", lambda: self._call("GET", f"manifests/{reference}", headers={"Accept": accept}))
        if len(answer.content) > _MANIFEST_MAX_BYTES:
            raise ConfigInvalid(f"{self.uri} has a manifest of {len(answer.content)} bytes")
        digest = digest_bytes(answer.content)
        if reference.startswith("sha256:") and reference != digest:
            raise StorageFailed(f"{self.uri}: the registry answers {digest} when asked for {reference}")
        try:
            manifest = json.loads(answer.content)
        except ValueError:
            manifest = None
        if not isinstance(manifest, dict):
            raise ConfigInvalid(f"{self.uri} has a manifest that is no JSON object")
        return manifest, digest

    def download_blob(self, digest: str, target: Path) -> None:
        """Download a blob to ``target``, and check that it is the one asked for."""

        def download() -> None:
            found = hashlib.sha256()
            with self._call("GET", f"blobs/{digest}", stream=True) as answer, target.open("wb") as file:
                for block in answer.iter_content(_BLOCK):
                    found.update(block)
                    file.write(block)
            if f"sha256:{found.hexdigest()}" != digest:
                raise requests.exceptions.ChunkedEncodingError(f"the content of {digest} has another digest")

        self._try("downloading", download)

    def _call(self, method: str, path: str, *, accept_missing: bool = False, **options: Any) -> requests.Response:  # noqa: ANN401
        return self._send(method, f"{self._endpoint}/v2/{self.name.repository}/{path}", accept_missing=accept_missing, **options)

    def _send(
        self,
        method: str,
        url: str,
        *,
        accept_missing: bool = False,
        headers: dict[str, str] | None = None,
        **options: Any,  # noqa: ANN401
    ) -> requests.Response:
        options.setdefault("timeout", (self._policy.connect_timeout, self._policy.read_timeout))
        for first in (True, False):
            answer = self._session.request(method, url, headers={**(headers or {}), **self._authorization()}, **options)
            if answer.status_code == 401 and first and not isinstance(options.get("data"), _Body) and self._log_in(answer):
                continue
            break
        if not (accept_missing and answer.status_code == 404):
            if answer.status_code >= 400:
                answer.reason = f"{answer.reason}: {answer.text[:300]}"
            answer.raise_for_status()
        return answer

    def _authorization(self) -> dict[str, str]:
        if self._token is not None:
            return {"Authorization": f"Bearer {self._token}"}
        if self._login is not None and self._basic:
            return {"Authorization": "Basic " + base64.b64encode(":".join(self._login).encode()).decode()}
        return {}

    def _log_in(self, refused: requests.Response) -> bool:
        """Get what the registry asks for; False where there is nothing to get."""
        challenge = refused.headers.get("WWW-Authenticate", "")
        if challenge.lower().startswith("basic"):
            already, self._basic = self._basic, True
            return self._login is not None and not already
        if not challenge.lower().startswith("bearer"):
            return False
        asked = dict(_CHALLENGE.findall(challenge))
        realm = asked.get("realm", "")
        if urlsplit(realm).scheme != "https" and urlsplit(self._endpoint).scheme == "https":
            raise StorageFailed(f"{self.uri}: its token service is not reached by HTTPS ({realm}); no credentials are sent there")
        wanted = {name: asked[name] for name in ("service", "scope") if name in asked}
        answer = self._session.get(
            realm, params=wanted, auth=self._login, timeout=(self._policy.connect_timeout, self._policy.read_timeout), allow_redirects=False
        )
        answer.raise_for_status()
        token = answer.json()
        self._token = str(token.get("token") or token.get("access_token"))
        return True

    def _try(self, doing: str, operation: Callable[[], T]) -> T:
        try:
            return call_with_retry(operation, f"{doing} {self.uri}", self._policy, self._policy.deadline())
        except Exception as error:
            fault = build_error(error, self.uri, self._role, doing)
            if fault is error:
                raise
            raise fault from error


class _Body:
    """A body of known length, so that no registry is sent chunks, which some refuse."""

    def __init__(self, blocks: Iterable[bytes], size: int) -> None:
        self._blocks = iter(blocks)
        self._size = size

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[bytes]:
        return self._blocks


def find_login(credentials: Credentials, registry: str) -> tuple[str, str] | None:
    """Return user name and password for ``registry``, or None.

    :raises ConfigInvalid: a Docker configuration is damaged.
    """
    if credentials.oci_username and credentials.oci_password:
        return credentials.oci_username, credentials.oci_password
    if not credentials.docker_config:
        return None
    try:
        entries = json.loads(credentials.docker_config)["auths"]
        for name, entry in entries.items():
            host = re.sub("^https?://", "", name).split("/", 1)[0]
            if host == registry or (host == "index.docker.io" and registry in ("docker.io", "registry-1.docker.io")):
                if entry.get("auth"):
                    user, _, password = base64.b64decode(entry["auth"]).decode().partition(":")
                    return user, password
                return str(entry["username"]), str(entry["password"])
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ConfigInvalid("the Secret in credentialsSecret has a .dockerconfigjson that can't be read; make it by kubectl anew") from None
    return None
