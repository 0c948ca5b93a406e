"""Where models, datasets and outputs lie: URIs, their schemes, and what is refused in them."""

import ipaddress
from dataclasses import dataclass
from typing import Annotated, Final
from urllib.parse import unquote, urlsplit

from pydantic import AfterValidator, Field, StringConstraints

LOCAL_SCHEME: Final = "file"
"""Read and written by local runs only: the CRD refuses it, since a pod's own files mean nothing to its user."""
MODEL_SCHEMES: Final = ("hf", "s3", "https", "pvc")
DATASET_SCHEMES: Final = ("hf", "s3", "https", "pvc")
OUTPUT_SCHEMES: Final = ("s3", "pvc")
MAX_URI_LENGTH: Final = 1024


@dataclass(frozen=True, slots=True)
class Location:
    """A URI taken apart: ``scheme://authority/path``.

    ``authority`` is the bucket (``s3``), host (``https``), organisation (``hf``) or claim (``pvc``); empty for ``file``.
    ``path`` has no leading slash, but for ``file``, where it is absolute.
    """

    scheme: str
    authority: str
    path: str


def parse_uri(uri: str) -> Location:
    """Take ``uri`` apart and refuse what is unsafe in it, whatever its scheme.

    :raises ValueError: names every fault of the URI: user information, a query or fragment, ``..``, an IP address as host.
    """
    faults: list[str] = []
    try:
        parts = urlsplit(uri)
        port = parts.port
    except ValueError as error:
        raise ValueError(f"is not a URI: {error}") from None
    if not parts.scheme or "://" not in uri:
        raise ValueError(f"{uri!r} is not a URI; write scheme://…, for example s3://bucket/path")
    if "@" in parts.netloc:
        raise ValueError("must not carry user information; put credentials in a Secret and name it in credentialsSecret")
    if any(character.isspace() or not character.isprintable() for character in uri):
        faults.append("must not contain white space or control characters")
    if parts.query or parts.fragment or "?" in uri or "#" in uri:
        faults.append("must not have a query or a fragment")
    if ".." in unquote(parts.path).split("/") or "\\" in unquote(parts.path):
        faults.append("must not contain '..' or a backslash")
    host = parts.hostname or ""
    if parts.scheme == LOCAL_SCHEME:
        if host:
            faults.append("must be file:///absolute/path")
    elif not host:
        faults.append(f"must name a {_AUTHORITY.get(parts.scheme, 'host')} after {parts.scheme}://")
    elif _is_ip_address(host):
        faults.append("must name a host, not an IP address")
    if port is not None and parts.scheme != "https":
        faults.append("must not have a port")
    if parts.scheme in ("pvc", "hf", "https") and not parts.path.strip("/"):
        faults.append(f"must name {_PATH[parts.scheme]}")
    if faults:
        raise ValueError("; ".join(faults))
    path = parts.path if parts.scheme == LOCAL_SCHEME else parts.path.strip("/")
    return Location(parts.scheme, parts.netloc, path)


_AUTHORITY: Final = {"s3": "bucket", "pvc": "claim", "hf": "organisation"}
_PATH: Final = {"pvc": "a path in the claim: pvc://claim/path", "hf": "organisation and repository: hf://org/name", "https": "a path"}


def _is_ip_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return host.isdigit() or host.startswith("0x")
    return True


def join_uri(uri: str, *names: str) -> str:
    """Return ``uri`` with ``names`` appended as path segments."""
    return "/".join((uri.rstrip("/"), *names))


def _validator(schemes: tuple[str, ...]) -> AfterValidator:
    def check(uri: str) -> str:
        location = parse_uri(uri)
        if location.scheme not in (*schemes, LOCAL_SCHEME):
            known = ", ".join(f"{scheme}://" for scheme in schemes)
            raise ValueError(f"has the scheme {location.scheme}://, which is not one of {known}")
        return uri

    return AfterValidator(check)


def build_uri_pattern(schemes: tuple[str, ...]) -> str:
    """Return the pattern that the API server holds a URI of one of ``schemes`` to (RE2 and ECMA syntax, no look-around).

    It is the coarse half of :func:`parse_uri`; the CEL rules beside it say what a pattern can't.
    """
    return rf"^({'|'.join(schemes)})://[A-Za-z0-9]([A-Za-z0-9._:-]*[A-Za-z0-9])?(/[^\s?#@\\]*)?$"


def _field(schemes: tuple[str, ...]) -> object:
    return Field(
        min_length=1,
        max_length=MAX_URI_LENGTH,
        json_schema_extra={
            "pattern": build_uri_pattern(schemes),
            "x-kubernetes-validations": [
                {"rule": "!self.matches('(^|/)[.][.](/|$)')", "message": "must not contain '..'"},
                {
                    "rule": "!self.matches('^[a-z0-9]+://[0-9]+([.][0-9]+)*(:[0-9]+)?(/|$)')",
                    "message": "must name a host, not an IP address",
                },
            ],
        },
    )


ModelUri = Annotated[str, StringConstraints(strip_whitespace=False), _validator(MODEL_SCHEMES), _field(MODEL_SCHEMES)]
DatasetUri = Annotated[str, StringConstraints(strip_whitespace=False), _validator(DATASET_SCHEMES), _field(DATASET_SCHEMES)]
OutputUri = Annotated[str, StringConstraints(strip_whitespace=False), _validator(OUTPUT_SCHEMES), _field(OUTPUT_SCHEMES)]
