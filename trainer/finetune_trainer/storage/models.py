"""Fetching a base model: configuration, tokenizer and safetensors weights, and nothing else."""

import json
import logging
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import yaml

from finetune_api.spec import ModelSpec
from finetune_api.uri import parse_uri
from finetune_trainer.errors import ConfigInvalid, SourceUnavailable
from finetune_trainer.storage.credentials import Credentials
from finetune_trainer.storage.digest import combine_digests, digest_files
from finetune_trainer.storage.hub import HubRepository
from finetune_trainer.storage.images import pull_image
from finetune_trainer.storage.local import LocalStore
from finetune_trainer.storage.opening import open_store
from finetune_trainer.storage.registry import Registry
from finetune_trainer.storage.retry import RetryPolicy
from finetune_trainer.storage.store import Store, StoredFile
from finetune_trainer.storage.transfer import download_files

logger = logging.getLogger(__name__)

CONFIG: Final = "config.json"
INDEX: Final = "model.safetensors.index.json"
WEIGHTS: Final = "model.safetensors"
SMALL_FILES: Final = (
    CONFIG,
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "added_tokens.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "chat_template.json",
    "spiece.model",
    "README.md",
    "LICENSE",
    "LICENSE.md",
    "LICENSE.txt",
    "NOTICE",
)
"""Files beside the weights that a model may need. Data only: code (``.py``) is never fetched."""
_TOKENIZERS: Final = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")
_PICKLED = re.compile(r"(\.bin|\.pt|\.pth|\.ckpt|\.pkl|\.pickle)$")
_CARD_MAX_CHARACTERS = 2**20
_INDEX_MAX_BYTES = 64 * 2**20
DIGEST_MAX_BYTES: Final = 64 * 2**30
"""Models on a volume that are larger are not read once more for their digest."""


@dataclass(frozen=True, slots=True)
class FetchedModel:
    """A base model on this machine."""

    path: Path
    """Folder to load it from."""
    revision: str | None
    """Commit that the revision resolved to; None where the source has no revisions."""
    digest: str | None
    """SHA-256 over configuration and weights; None for a very large model on a volume."""
    license: str | None = None
    """Licence that the model's own card names."""


def fetch_model(
    model: ModelSpec, credentials: Credentials, folder: Path, policy: RetryPolicy | None = None, volume_root: str | None = None
) -> FetchedModel:
    """Bring the base model to this machine: into ``folder``, or used in place where it lies on a volume.

    Killed at any moment, this leaves whole and partial files in ``folder``; the next call goes on from there.

    :raises ConfigInvalid: the folder holds no model that can be loaded: pickled weights only, no ``config.json``, no tokenizer.
    :raises SourceUnavailable: it doesn't exist, is incomplete, or the credentials don't reach it.
    :raises StorageFailed: the store failed after retries, or the disk is too small.
    """
    scheme = parse_uri(model.uri).scheme
    if scheme == "hf":
        return _fetch_from_hub(model, credentials, folder, policy)
    if scheme == "oci":
        digest = pull_image(Registry(model.uri, "model", credentials, model.endpoint_url, policy), folder)
        return replace(_use_in_place(LocalStore(model.uri, "model", folder, policy or RetryPolicy()), folder), revision=digest)
    store = open_store(model.uri, "model", credentials, model.endpoint_url, policy, volume_root)
    if (local := store.local_path("")) is not None:
        return _use_in_place(store, local)
    files = _probe(store) if scheme == "https" else [file for file in store.list_files() if "/" not in file.path]
    chosen = select_model_files(model.uri, files, lambda: _read_index(store))
    download_files(store, chosen, folder)
    return FetchedModel(folder, None, _digest(folder, chosen), read_license(folder))


def select_model_files(uri: str, files: Iterable[StoredFile], read_index: Callable[[], bytes]) -> list[StoredFile]:
    """Choose what to fetch of a model's ``files``: the known small files, and one set of safetensors weights.

    Pure but for ``read_index``, which returns the content of the weights' index, and is called only where there is one.

    :raises ConfigInvalid: no model that can be loaded is there.
    :raises SourceUnavailable: shards that the index names are missing.
    """
    by_name = {file.path: file for file in files if "/" not in file.path}
    if not by_name:
        raise SourceUnavailable(f"{uri} is empty or doesn't exist; check model.uri for typing errors")
    weights = [name for name in by_name if name.endswith(".safetensors") and not name.startswith(("adapter_model", "consolidated"))]
    if not weights and any(_PICKLED.search(name) for name in by_name):
        raise ConfigInvalid(
            f"{uri} has pickled weights only, and loading a pickle runs whatever code is in it. Convert it to safetensors "
            "(load it where you trust it, then model.save_pretrained(folder)) and name the converted folder in model.uri"
        )
    if CONFIG not in by_name:
        hint = "it holds a PEFT adapter; name its base model in model.uri" if "adapter_config.json" in by_name else "name a model's folder"
        raise ConfigInvalid(f"{uri} has no {CONFIG}: {hint}")
    if not weights:
        raise ConfigInvalid(f"{uri} has no *.safetensors weights")
    if not any(name in by_name for name in _TOKENIZERS):
        raise ConfigInvalid(f"{uri} has no tokenizer (none of {', '.join(_TOKENIZERS)}); save the tokenizer beside the model")
    if INDEX in by_name:
        weights = _parse_index(uri, read_index())
        if missing := [name for name in weights if name not in by_name]:
            raise SourceUnavailable(f"{uri} is incomplete: {INDEX} names {', '.join(missing[:5])}, which are not there; upload them")
        weights.append(INDEX)
    elif WEIGHTS in by_name:
        weights = [WEIGHTS]
    names = [name for name in SMALL_FILES if name in by_name] + sorted(weights)
    return [by_name[name] for name in names]


def _parse_index(uri: str, content: bytes) -> list[str]:
    try:
        names = sorted({str(name) for name in json.loads(content)["weight_map"].values()})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigInvalid(f"{INDEX} of {uri} is not an index of safetensors shards: {error!r}") from None
    for name in names:
        if "/" in name or "\\" in name or not name.endswith(".safetensors"):
            raise ConfigInvalid(f"{INDEX} of {uri} names {name!r}; shards must be *.safetensors files in the same folder")
    return names


def _read_index(store: Store) -> bytes:
    content = store.read(INDEX, _INDEX_MAX_BYTES)
    if content is None:
        raise SourceUnavailable(f"{store.locate(INDEX)} has vanished since it was listed; is something still writing there?")
    return content


def _probe(store: Store) -> list[StoredFile]:
    """Ask a web server, which has no listing, for the names that a model's files have."""
    found = [file for name in (*SMALL_FILES, INDEX, WEIGHTS) if (file := store.find(name)) is not None]
    names = {file.path for file in found}
    if INDEX in names:
        found += [file for name in _parse_index(store.uri, _read_index(store)) if (file := store.find(name)) is not None]
    elif WEIGHTS not in names:
        found += [file for name in ("pytorch_model.bin",) if (file := store.find(name)) is not None]
    return found


def _use_in_place(store: Store, folder: Path) -> FetchedModel:
    files = [StoredFile(file.name, file.stat().st_size) for file in folder.iterdir() if file.is_file()] if folder.is_dir() else []
    chosen = select_model_files(store.uri, files, lambda: _read_index(store))
    size = sum(file.size for file in chosen)
    return FetchedModel(folder, None, _digest(folder, chosen) if size <= DIGEST_MAX_BYTES else None, read_license(folder))


def _fetch_from_hub(model: ModelSpec, credentials: Credentials, folder: Path, policy: RetryPolicy | None) -> FetchedModel:
    repository = HubRepository(model.uri, "model", "model", credentials, model.endpoint_url, policy)
    listing = repository.list_files(model.revision)
    chosen = select_model_files(model.uri, listing.files, lambda: repository.read(INDEX, listing.commit, folder))
    repository.download(chosen, listing.commit, folder)
    if missing := [file.path for file in chosen if not (folder / file.path).is_file()]:
        raise SourceUnavailable(f"{model.uri} at {listing.commit}: {', '.join(missing)} could not be fetched")
    logger.info("%s is at commit %s", model.uri, listing.commit)
    return FetchedModel(folder, listing.commit, _digest(folder, chosen), read_license(folder))


def _digest(folder: Path, files: Iterable[StoredFile]) -> str:
    names = [file.path for file in files if file.path == CONFIG or file.path.endswith(".safetensors")]
    return combine_digests(digest_files({name: folder / name for name in names}))


def read_license(folder: Path) -> str | None:
    """Return the licence that the card (``README.md``) in ``folder`` names at its head, or None. The card is input from outside."""
    try:
        with (folder / "README.md").open(encoding="utf-8", errors="replace") as stream:
            text = stream.read(_CARD_MAX_CHARACTERS)
        head = text.split("---", 2)[1] if text.startswith("---") else ""
        card = yaml.safe_load(head)
    except (OSError, IndexError, yaml.YAMLError):
        return None
    name = (card.get("license_name") if card.get("license") == "other" else None) or card.get("license") if isinstance(card, dict) else None
    return name[:128] if isinstance(name, str) and name else None
