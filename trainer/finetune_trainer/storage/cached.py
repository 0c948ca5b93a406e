"""Base models by way of a shared cache, where there is one: found there, or fetched as without it.

The cache only saves time. Whatever is wrong with it, a run goes on without it and says why in its log.
"""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from finetune_api.spec import ModelSpec
from finetune_api.uri import parse_uri
from finetune_trainer.storage.cache import CacheEntry, ModelCache, build_key
from finetune_trainer.storage.credentials import Credentials
from finetune_trainer.storage.hub import HubRepository
from finetune_trainer.storage.models import FetchedModel, fetch_model, read_license
from finetune_trainer.storage.retry import RetryPolicy

HANDOVER: Final = "model-cache.json"
"""In the work folder: which entry of the cache stands for which model, as the pod's filler found it."""

logger = logging.getLogger(__name__)


def is_cacheable(model: ModelSpec) -> bool:
    """True of models of a hub: a commit never changes. What lies under another URI may be replaced without a trace."""
    return parse_uri(model.uri).scheme == "hf"


def identify(model: ModelSpec) -> str:
    """Return what names ``model`` in the handover."""
    return f"{model.endpoint_url or ''} {model.uri} {model.revision or ''}"


def fill_from_hub(
    cache: ModelCache, model: ModelSpec, credentials: Credentials, wait_seconds: float, policy: RetryPolicy | None = None
) -> tuple[str, CacheEntry]:
    """Return key and entry of ``model``, having fetched it where nobody has.

    The hub is always asked, with the run's own token, which commit the revision is: who may not read a model does not get it from the cache
    either.

    :raises TrainerError: the hub, the model or the disk, as :func:`fetch_model` says it.
    :raises LockTimeout: another fetches it, and takes too long.
    """
    repository = HubRepository(model.uri, "model", "model", credentials, model.endpoint_url, policy)
    commit = repository.list_files(model.revision).commit
    key = build_key(model.endpoint_url or credentials.hub_endpoint or "", model.uri, commit)

    def fetch(folder: Path) -> CacheEntry:
        fetched = fetch_model(model.model_copy(update={"revision": commit}), credentials, folder, policy)
        return CacheEntry(uri=model.uri, commit=commit, digest=fetched.digest)

    return key, cache.fill(key, fetch, wait_seconds)


def write_handover(work_dir: Path, keys: Mapping[str, str]) -> None:
    """Tell the trainer of this pod which entries to take."""
    (work_dir / HANDOVER).write_text(json.dumps(keys))


def fetch_by_cache(model: ModelSpec, credentials: Credentials, folder: Path, cache_root: str | None, work_dir: str) -> FetchedModel:
    """Return the base model: read in place from the cache, once every byte of it has been checked, or fetched into ``folder``.

    :raises TrainerError: as :func:`fetch_model`.
    """
    key = _read_handover(Path(work_dir)).get(identify(model)) if cache_root is not None else None
    if cache_root is not None and key is not None:
        cache = ModelCache(Path(cache_root))
        entry = cache.verify(key)
        if entry is not None:
            logger.info("%s at commit %s is read from the model cache", model.uri, entry.commit)
            path = cache.path_of(key)
            return FetchedModel(path, entry.commit, entry.digest, read_license(path))
    if cache_root is not None and is_cacheable(model):
        logger.warning("%s is not in the model cache; it is fetched for this run alone", model.uri)
    return fetch_model(model, credentials, folder)


def _read_handover(work_dir: Path) -> dict[str, str]:
    try:
        keys = json.loads((work_dir / HANDOVER).read_bytes())
    except (OSError, ValueError):
        return {}
    return {str(name): str(key) for name, key in keys.items()} if isinstance(keys, dict) else {}
