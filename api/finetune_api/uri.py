"""Where models, datasets and outputs lie: URIs, their schemes, and what is refused in them."""

import unicodedata
from dataclasses import dataclass
from typing import Annotated, Final
from urllib.parse import urlsplit

from pydantic import Field

from finetune_api.rules import Obeys, Rule, check

LOCAL_SCHEME: Final = "file"
"""Read and written by local runs only: the CRD refuses it, since a pod's own files mean nothing to its user."""
MODEL_SCHEMES: Final = ("hf", "s3", "gs", "https", "oci", "pvc")
DATASET_SCHEMES: Final = ("hf", "s3", "gs", "https", "oci", "pvc")
OUTPUT_SCHEMES: Final = ("s3", "gs", "pvc")
PUSH_SCHEMES: Final = ("oci", "hf")
MAX_URI_LENGTH: Final = 1024
"""Longest URI in bytes, so that an artifact's always fits in a termination message."""

_HOST: Final = "[A-Za-z0-9]([-A-Za-z0-9.]*[A-Za-z0-9])?"
_DNS_NAME: Final = "[a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)*"
_PORT: Final = "([1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])"
_IP_ADDRESS: Final = r"^https?://(\[|(0[xX][0-9a-fA-F]*|[0-9]+)([.](0[xX][0-9a-fA-F]*|[0-9]*))*(:[^/]*)?(/|$))"
"""A URI whose host is an address in any spelling that a resolver takes: dotted, short, decimal, octal, hexadecimal, IPv6."""

_UNPRINTABLE: Final = frozenset({"Zs", "Zl", "Zp", "Cc", "Cf", "Co", "Cs"})

_GENERAL_RULES: Final = (
    Rule(
        cel=f"bytes(self).size() <= {MAX_URI_LENGTH}",
        holds=lambda uri: len(uri.encode(errors="replace")) <= MAX_URI_LENGTH,
        message=f"must have at most {MAX_URI_LENGTH} bytes in UTF-8",
    ),
    Rule(
        cel=r"!self.matches('[\\pZ\\pC]')",
        holds=lambda uri: not any(unicodedata.category(character) in _UNPRINTABLE for character in uri),
        message="must not contain white space or control characters; write them percent-encoded",
    ),
    Rule.refusing("^[^/]*//[^/]*@", "must not carry user information; put credentials in a Secret and name it in credentialsSecret"),
    Rule.refusing("[?#]", "must not have a query or a fragment"),
    Rule.refusing(_IP_ADDRESS, "must name a host, not an IP address"),
    Rule.refusing(r"(/|%2[fF])([.]|%2[eE]){2}(/|%2[fF]|$)|\\|%5[cC]", "must not contain '..' or a backslash"),
)


def _form(scheme: str, pattern: str, form: str) -> Rule:
    """Return the rule that a URI of ``scheme`` matches ``pattern``; a URI of another scheme is not its business."""
    of_scheme = f"^{scheme}:"
    rule = Rule.matching(f"^{scheme}://{pattern}", f"must have the form {form}")
    return Rule(
        cel=f"!self.startsWith('{scheme}:') || {rule.cel}",
        holds=lambda uri: not uri.startswith(f"{scheme}:") or rule.holds(uri),
        message=rule.message,
        json_schema={"if": {"pattern": of_scheme}, "then": rule.json_schema},
    )


_REPOSITORY: Final = "[a-z0-9]+([._-]+[a-z0-9]+)*(/[a-z0-9]+([._-]+[a-z0-9]+)*)*"
_TAG: Final = "[A-Za-z0-9_][-A-Za-z0-9._]*"
_HUB_NAME: Final = "[A-Za-z0-9][-A-Za-z0-9._]*"
_FORM_RULES: Final = {
    "hf": _form("hf", f"{_HUB_NAME}/{_HUB_NAME}(/[^@]*)?$", "hf://organisation/name; a revision goes in the field revision"),
    "s3": _form("s3", "[A-Za-z0-9]([-A-Za-z0-9._]*[A-Za-z0-9])?(/|$)", "s3://bucket/path"),
    "gs": _form("gs", "[A-Za-z0-9]([-A-Za-z0-9._]*[A-Za-z0-9])?(/|$)", "gs://bucket/path"),
    "oci": _form(
        "oci",
        f"{_HOST}(:{_PORT})?/{_REPOSITORY}(:{_TAG})?(@sha256:[0-9a-f]{{64}})?$",
        "oci://registry/repository:tag or oci://registry/repository@sha256:digest, the repository in lower case",
    ),
    "https": _form("https", f"{_HOST}(:{_PORT})?/+[^/]", "https://host/path"),
    "pvc": _form("pvc", f"{_DNS_NAME}/+[^/]", "pvc://claim/path, a path in a claim that lies beside the FineTuneJob"),
    LOCAL_SCHEME: _form(LOCAL_SCHEME, "/", "file:///absolute/path"),
}


@dataclass(frozen=True, slots=True)
class Location:
    """A URI taken apart: ``scheme://authority/path``.

    ``authority`` is the bucket (``s3``, ``gs``), host (``https``), registry (``oci``), organisation (``hf``) or claim (``pvc``);
    empty for ``file``.
    ``path`` has no leading slash, but for ``file``, where it is absolute.
    """

    scheme: str
    authority: str
    path: str


def build_uri_rules(schemes: tuple[str, ...]) -> tuple[Rule, ...]:
    """Return the rules that a URI of one of ``schemes`` is held to. Local files pass outside a cluster only."""
    known = ", ".join(f"{scheme}://" for scheme in schemes)
    in_cluster = Rule.matching(f"^({'|'.join(schemes)})://", f"must begin with one of {known}")
    anywhere = Rule.matching(f"^(({'|'.join(schemes)})://|{LOCAL_SCHEME}:///)", in_cluster.message)
    scheme_rule = Rule(in_cluster.cel, anywhere.holds, anywhere.message, json_schema=anywhere.json_schema)
    return (scheme_rule, *_GENERAL_RULES, *(_FORM_RULES[scheme] for scheme in schemes))


def parse_uri(uri: str) -> Location:
    """Take ``uri`` apart and refuse what is unsafe in it, whatever its scheme.

    :raises ValueError: names every fault of the URI: user information, a query or fragment, ``..``, an IP address as host.
    """
    scheme = uri.partition("://")[0]
    if "://" not in uri or not scheme:
        raise ValueError(f"{uri!r} is not a URI; write scheme://…, for example s3://bucket/path")
    check((*_GENERAL_RULES, *_FORM_RULES.values()), uri)
    try:
        parts = urlsplit(uri)
    except ValueError as error:
        raise ValueError(f"is not a URI: {error}") from None
    path = parts.path if parts.scheme == LOCAL_SCHEME else parts.path.strip("/")
    return Location(parts.scheme, parts.netloc, path)


def join_uri(uri: str, *names: str) -> str:
    """Return ``uri`` with ``names`` appended as path segments."""
    return "/".join((uri.rstrip("/"), *names))


_Uri = Annotated[str, Field(min_length=1, max_length=MAX_URI_LENGTH)]
EndpointUrl = Annotated[str, Field(max_length=512, pattern=f"^https?://{_HOST}(:{_PORT})?/?$")]
ModelUri = Annotated[_Uri, Obeys(*build_uri_rules(MODEL_SCHEMES))]
DatasetUri = Annotated[_Uri, Obeys(*build_uri_rules(DATASET_SCHEMES))]
OutputUri = Annotated[_Uri, Obeys(*build_uri_rules(OUTPUT_SCHEMES))]

_PUSH_RULES: Final = (
    Rule.matching(f"^({'|'.join(PUSH_SCHEMES)})://", f"must begin with one of {', '.join(f'{scheme}://' for scheme in PUSH_SCHEMES)}"),
    *_GENERAL_RULES,
    *(_FORM_RULES[scheme] for scheme in PUSH_SCHEMES),
    Rule.refusing("@", "must name a tag to push to, not a digest"),
    Rule.refusing("^hf://[^/]*/[^/]*/", "must have the form hf://organisation/name"),
)
PushUri = Annotated[str, Field(min_length=1, max_length=160), Obeys(*_PUSH_RULES)]
TrackerUrl = Annotated[str, Field(max_length=512, pattern=f"^https?://{_HOST}(:{_PORT})?(/[-A-Za-z0-9._~]+)*/?$")]
