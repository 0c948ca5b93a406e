"""URIs: what they say, and what is refused in them."""

import contextlib
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_api.uri import Location, join_uri, parse_uri

names = st.from_regex(r"[a-z0-9]([-a-z0-9]{0,10}[a-z0-9])?", fullmatch=True)


@given(scheme=st.sampled_from(["s3", "pvc", "hf"]), authority=names, path=st.lists(names, min_size=1, max_size=4))
def test_a_uri_comes_apart_and_together(scheme: str, authority: str, path: list[str]) -> None:
    uri = join_uri(f"{scheme}://{authority}", *path)
    assert parse_uri(uri) == Location(scheme, authority, "/".join(path))
    assert parse_uri(f"{uri}/") == parse_uri(uri)


@given(st.text(max_size=40))
def test_any_text_is_read_or_refused(text: str) -> None:
    for prefix in ("", "s3://", "https://", "file://", "hf://org/", "pvc://claim/"):
        with contextlib.suppress(ValueError):
            location = parse_uri(prefix + text)
            assert ".." not in location.path.split("/")
            assert "@" not in location.authority


@pytest.mark.parametrize(
    ("uri", "location"),
    [
        ("s3://bucket", Location("s3", "bucket", "")),
        ("s3://bucket/données/a.jsonl", Location("s3", "bucket", "données/a.jsonl")),
        ("s3://bucket/a@b/c", Location("s3", "bucket", "a@b/c")),
        ("https://host.example.com:8443/a/b.jsonl", Location("https", "host.example.com:8443", "a/b.jsonl")),
        ("hf://01-ai/Yi-1.5-6B", Location("hf", "01-ai", "Yi-1.5-6B")),
        ("pvc://my-claim/models/llama", Location("pvc", "my-claim", "models/llama")),
        ("file:///srv/models/tiny", Location("file", "", "/srv/models/tiny")),
    ],
)
def test_it_says_where(uri: str, location: Location) -> None:
    assert parse_uri(uri) == location


@pytest.mark.parametrize(
    ("uri", "fault"),
    [
        ("bucket/path", "is not a URI"),
        ("://bucket", "is not a URI"),
        ("file://host/path", "file:///absolute/path"),
        ("file://relative", "file:///absolute/path"),
        ("s3://", "s3://bucket/path"),
        ("s3://user:key@bucket/a", "user information"),
        ("s3://bucket:9000/a", "s3://bucket/path"),
        ("https://127.0.0.1./a", "not an IP address"),
        ("https://0177.0.0.1/a", "not an IP address"),
        ("https://[::ffff:a9fe:a9fe]/a", "not an IP address"),
        ("https://host/", "https://host/path"),
        ("pvc://claim/", "pvc://claim/path"),
        ("pvc://claim/a/%2E%2e/%2E%2e/etc", "must not contain '..'"),
        ("pvc://claim/a%2f..%2fb", "must not contain '..'"),
        ("file:///srv/../etc/passwd", "must not contain '..'"),
        ("hf://org/name@v1", "field revision"),
        ("s3://bucket/a\nb", "control characters"),
        ("s3://bucket/\u202egnp.exe", "control characters"),
    ],
)
def test_it_is_refused_with_the_reason(uri: str, fault: str) -> None:
    with pytest.raises(ValueError, match=re.escape(fault)):
        parse_uri(uri)
