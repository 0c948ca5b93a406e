"""Finding a base model's ``config.json``, a few kilobytes, without the model."""

import json
import os
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, Final

from finetune_api.spec.source import ModelSpec
from finetune_api.uri import join_uri, parse_uri

CONFIG_NAME: Final = "config.json"
MAX_BYTES: Final = 2**20
TIMEOUT_SECONDS: Final = 20.0
_HUB: Final = "https://huggingface.co"


class ConfigUnavailable(Exception):
    """The model's configuration can't be read from here; says why, and that a file can be given."""


def read_model_config(model: ModelSpec, given: Path | None) -> dict[str, Any]:
    """Return the ``config.json`` of ``model``: the file ``given``, or from where the model lies.

    :raises ConfigUnavailable: there is none, or it can't be reached from here.
    """
    try:
        content = _read(model) if given is None else (given / CONFIG_NAME if given.is_dir() else given).read_bytes()
        parsed = json.loads(content)
    except (OSError, ValueError, ImportError) as error:
        where = model.uri if given is None else str(given)
        words = f"{error.code} {error.reason}" if isinstance(error, urllib.error.HTTPError) else str(error)
        hint = "; name the file itself with --config" if given is None else ""
        raise ConfigUnavailable(f"the config.json of {where} can't be read: {words}{hint}") from None
    if not isinstance(parsed, dict):
        raise ConfigUnavailable(f"{given or model.uri}: config.json is no object")
    return parsed


def _read(model: ModelSpec) -> bytes:
    location = parse_uri(model.uri)
    if location.scheme == "file":
        return Path(location.path, CONFIG_NAME).read_bytes()
    if location.scheme == "hf":
        hub = (model.endpoint_url or os.environ.get("HF_ENDPOINT") or _HUB).rstrip("/")
        repository = f"{location.authority}/{location.path.partition('/')[0]}"
        return _get(f"{hub}/{repository}/resolve/{model.revision or 'main'}/{CONFIG_NAME}", os.environ.get("HF_TOKEN"))
    if location.scheme == "https":
        return _get(join_uri(model.uri, CONFIG_NAME), os.environ.get("HTTP_BEARER_TOKEN"))
    if location.scheme == "s3":
        import fsspec  # noqa: PLC0415  seconds to import

        endpoint = model.endpoint_url or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        files = fsspec.filesystem("s3", client_kwargs={"endpoint_url": endpoint} if endpoint else {})
        content: bytes = files.cat_file(f"{location.authority}/{location.path}/{CONFIG_NAME}")
        return content
    raise OSError(f"{location.scheme}:// can be read in the cluster only")


def _get(url: str, token: str | None) -> bytes:
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"} if token else {})  # noqa: S310  https, by its rule
    with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as answer:  # noqa: S310
        content: bytes = answer.read(MAX_BYTES)
    return content
