"""What an exception of a storage client means: one place that knows the clients' own errors."""

import errno
from collections.abc import Iterator
from enum import Enum, auto
from typing import Literal

from finetune_trainer.errors import SourceUnavailable, StorageFailed, TrainerError

Role = Literal["model", "dataset", "evaluation dataset", "output"]
"""What a store is used for. An output that can't be reached is the store's failure; everything else is a source."""

_FIELDS: dict[Role, str] = {
    "model": "model",
    "dataset": "dataset",
    "evaluation dataset": "dataset.eval",
    "output": "output",
}


class Fault(Enum):
    """Kinds of fault, by what can be done about them."""

    MISSING = auto()
    """There is nothing there."""
    FORBIDDEN = auto()
    """The credentials don't reach it."""
    UNTRUSTED = auto()
    """The server's certificate is of no known authority, or not for its name."""
    TRANSIENT = auto()
    """Passing: the network, a server that is overloaded or starting."""
    FULL = auto()
    """No room."""
    OTHER = auto()
    """A fault of another kind; trying again is no use."""


_FULL = {errno.ENOSPC, errno.EDQUOT}
_PASSING = {
    errno.EBUSY,
    errno.EREMOTEIO,
    errno.ECONNRESET,
    errno.ECONNREFUSED,
    errno.ECONNABORTED,
    errno.EPIPE,
    errno.ETIMEDOUT,
    errno.EHOSTUNREACH,
    errno.ENETUNREACH,
    errno.ESTALE,
    errno.EAGAIN,
}
_PASSING_TYPES = {
    # botocore, aiohttp, httpx and fsspec, by name: importing them all to look at an exception costs seconds
    "EndpointConnectionError",
    "ConnectTimeoutError",
    "ReadTimeoutError",
    "ConnectionClosedError",
    "HTTPClientError",
    "IncompleteRead",
    "IncompleteReadError",
    "ResponseParserError",
    "ResponseStreamingError",
    "FSTimeoutError",
    "ClientConnectionError",
    "ClientPayloadError",
    "ServerDisconnectedError",
    "TransportError",
    "SizeMismatch",
    # requests and Google's clients
    "ConnectionError",
    "Timeout",
    "ChunkedEncodingError",
    "ContentDecodingError",
    "DataCorruption",
}
_FORBIDDEN_TYPES = {"NoCredentialsError", "PartialCredentialsError", "NoAuthTokenError", "GatedRepoError", "TokenRetrievalError"}
_UNTRUSTED_TYPES = {"SSLCertVerificationError", "ClientConnectorCertificateError", "SSLCertificateError"}
_FORBIDDEN_CODES = {
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "ExpiredToken",
    "InvalidToken",
    "InvalidSecurity",
    "AuthorizationHeaderMalformed",
    "XAdminUserNotFound",
}
"""Error codes of S3 that mean the credentials, whatever status (400, 404) they come with."""
_MISSING_TYPES = {"RepositoryNotFoundError", "RevisionNotFoundError", "EntryNotFoundError", "RemoteEntryNotFoundError"}


class SizeMismatch(OSError):
    """A transfer ended with fewer or more bytes than were announced."""


def classify(error: BaseException) -> Fault:
    """Return the kind of ``error``: what the innermost exception of its chain that tells says, being nearest to the cause."""
    told = [fault for link in _chain(error) if (fault := _classify_one(link)) is not Fault.OTHER]
    return told[-1] if told else Fault.OTHER


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        yield link
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)


def _classify_one(error: BaseException) -> Fault:
    names = {kind.__name__ for kind in type(error).__mro__}
    if names & _FORBIDDEN_TYPES:  # a gated repository is a repository not found, to its client: look here first
        return Fault.FORBIDDEN
    if names & _MISSING_TYPES or isinstance(error, FileNotFoundError):
        return Fault.MISSING
    if isinstance(error, PermissionError):
        return Fault.FORBIDDEN
    if names & _UNTRUSTED_TYPES:
        return Fault.UNTRUSTED
    response = getattr(error, "response", None)
    if isinstance(response, dict) and response.get("Error", {}).get("Code") in _FORBIDDEN_CODES:
        return Fault.FORBIDDEN
    status = _http_status(error)
    if status is not None:
        return _classify_status(status)
    if isinstance(error, (TimeoutError, ConnectionError)) or names & _PASSING_TYPES:
        return Fault.TRANSIENT
    if isinstance(error, OSError) and error.errno in _FULL:
        return Fault.FULL
    if isinstance(error, OSError) and error.errno in _PASSING:
        return Fault.TRANSIENT
    return Fault.OTHER


def _classify_status(status: int) -> Fault:
    if status in (401, 403):
        return Fault.FORBIDDEN
    if status in (404, 410):
        return Fault.MISSING
    if status in (408, 425, 429) or (status >= 500 and status not in (501, 505, 507)):
        return Fault.TRANSIENT
    return Fault.FULL if status == 507 else Fault.OTHER


def _http_status(error: BaseException) -> int | None:
    """Return the HTTP status that ``error`` carries, in whichever client's way."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):  # botocore
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    else:  # huggingface_hub and httpx: response.status_code; aiohttp: status
        status = getattr(response, "status_code", None) or getattr(error, "status", None) or getattr(error, "code", None)
    return status if isinstance(status, int) and status >= 300 else None


def build_error(error: BaseException, uri: str, role: Role, doing: str) -> TrainerError:
    """Return the foreseen fault that ``error``, met in ``doing`` something at ``uri``, amounts to.

    404 and 403 on a source: :class:`SourceUnavailable`. Everything else, and everything about an output: :class:`StorageFailed`.
    """
    if isinstance(error, TrainerError):
        return error
    fault, field = classify(error), _FIELDS[role]
    kind: type[TrainerError] = StorageFailed if role == "output" else SourceUnavailable
    cause = " ".join(f"{type(error).__name__}: {error}".split()).rstrip(": ")
    if fault is Fault.MISSING:
        return kind(f"{doing} {uri} failed: nothing is there ({cause}). Check {field}.uri{_revision_hint(uri)} for typing errors")
    if fault is Fault.FORBIDDEN:
        return kind(
            f"{doing} {uri} failed: access is denied ({cause}). Check the Secret in {field}.credentialsSecret and what it may reach"
        )
    if fault is Fault.UNTRUSTED:
        return kind(f"{doing} {uri} failed: {cause}. Add the server's certificate authority, and name its file in SSL_CERT_FILE (pod.env)")
    if fault is Fault.FULL:
        return StorageFailed(f"{doing} {uri} failed: no room is left ({cause}). Make room, or raise resources.ephemeralStorage")
    if fault is Fault.TRANSIENT:
        return StorageFailed(f"{doing} {uri} failed, after retries: {cause}. Check that the store answers, and {field}.endpointUrl")
    return StorageFailed(f"{doing} {uri} failed: {cause}")


def _revision_hint(uri: str) -> str:
    return " and the revision" if uri.startswith("hf://") else ""
