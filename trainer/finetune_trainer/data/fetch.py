"""Bringing a dataset's files to this machine."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Any, Final

from finetune_api.spec import DatasetSpec, EvalDatasetSpec
from finetune_api.uri import parse_uri
from finetune_trainer.data.reading import GZIP, SUFFIXES, data_suffix
from finetune_trainer.errors import ConfigInvalid, DataInvalid, SourceUnavailable
from finetune_trainer.storage.credentials import Credentials
from finetune_trainer.storage.faults import Role
from finetune_trainer.storage.hub import HubRepository
from finetune_trainer.storage.images import pull_image
from finetune_trainer.storage.local import LocalStore
from finetune_trainer.storage.opening import open_store
from finetune_trainer.storage.registry import Registry
from finetune_trainer.storage.retry import RetryPolicy
from finetune_trainer.storage.store import Store, StoredFile
from finetune_trainer.storage.transfer import download_files

_ALIASES: Final[dict[str, tuple[str, ...]]] = {
    "train": ("train", "training"),
    "test": ("test", "testing", "eval", "evaluation"),
    "validation": ("validation", "valid", "val", "dev"),
}
"""Words by which files name their split, as the hub's own conventions have it."""
_WORD = re.compile(r"[A-Za-z0-9]+")


@dataclass(frozen=True, slots=True)
class FetchedDataset:
    """A dataset's files on this machine."""

    root: Path
    """Folder that they lie under."""
    files: list[Path]
    """The files, sorted by path."""
    revision: str | None = None
    """Commit that the revision resolved to; None where the source has no revisions."""


def fetch_dataset(
    dataset: DatasetSpec | EvalDatasetSpec,
    credentials: Credentials,
    folder: Path,
    policy: RetryPolicy | None = None,
    volume_root: str | None = None,
) -> FetchedDataset:
    """Bring the data files to ``folder``, or use them in place where they lie on a volume.

    Killed at any moment, this leaves whole and partial files in ``folder``; the next call goes on from there.

    :raises DataInvalid: there are no data files, or the split is not to be found.
    :raises SourceUnavailable: the URI doesn't exist, or the credentials don't reach it.
    :raises StorageFailed: the store failed after retries, or the disk is too small.
    """
    role: Role = "dataset" if isinstance(dataset, DatasetSpec) else "evaluation dataset"
    location = parse_uri(dataset.uri)
    if location.scheme == "hf":
        return _fetch_from_hub(dataset, credentials, folder, role, policy)
    if location.scheme == "oci":
        digest = pull_image(Registry(dataset.uri, role, credentials, dataset.endpoint_url, policy), folder)
        fetched = _fetch_folder(LocalStore(dataset.uri, role, folder, policy or RetryPolicy()), folder, role)
        return replace(fetched, revision=digest)
    field = "dataset" if role == "dataset" else "dataset.eval"
    parent, _, name = dataset.uri.rstrip("/").rpartition("/")
    if data_suffix(name) is not None and not parent.endswith("/"):
        store = open_store(dataset.uri, role, credentials, dataset.endpoint_url, policy, volume_root)
        file = store.find("")
        if file is not None:
            return _fetch_file(store, file, name, folder)
        if location.scheme == "https":
            raise SourceUnavailable(f"{dataset.uri} doesn't exist; check {field}.uri for typing errors")
    elif location.scheme == "https":
        raise ConfigInvalid(f"{dataset.uri} must name one file that ends in {', '.join(SUFFIXES)} (or these with {GZIP})")
    store = open_store(dataset.uri, role, credentials, dataset.endpoint_url, policy, volume_root)
    if data_suffix(name) is None and "." in name and store.find("") is not None:
        raise DataInvalid(f"{dataset.uri} is no data file: its name must end in {', '.join(SUFFIXES)} (or these with {GZIP}); convert it")
    return _fetch_folder(store, folder, field)


def _fetch_file(store: Store, file: StoredFile, name: str, folder: Path) -> FetchedDataset:
    local = store.local_path("")
    if local is not None:
        return FetchedDataset(local.parent, [local])
    target = folder / name
    if not (file.size and target.is_file() and target.stat().st_size == file.size):
        store.download("", target, file.size or None)
    return FetchedDataset(folder, [target])


def _fetch_folder(store: Store, folder: Path, field: str) -> FetchedDataset:
    listed = store.list_files()
    if not listed:
        raise SourceUnavailable(f"{store.uri} is empty or doesn't exist; check {field}.uri for typing errors")
    files = choose_data_files(store.uri, listed)
    local = store.local_path("")
    if local is not None:
        return FetchedDataset(local, [local / file.path for file in files])
    download_files(store, files, folder)
    return FetchedDataset(folder, [folder / file.path for file in files])


def choose_data_files(uri: str, files: Sequence[StoredFile]) -> list[StoredFile]:
    """Choose the data files of a folder: all that have a known suffix, but for hidden ones and the descriptions of a hub's dataset.

    :raises DataInvalid: there are none.
    """
    chosen = [file for file in files if data_suffix(file.path) and not _is_description(file.path)]
    if not chosen:
        names = ", ".join(sorted(file.path for file in files)[:8])
        scripts = " Loading scripts are never run; convert the data." if any(file.path.endswith(".py") for file in files) else ""
        raise DataInvalid(f"{uri} has no {', '.join(SUFFIXES)} files (or these with {GZIP}), only: {names}.{scripts}")
    return sorted(chosen, key=lambda file: file.path)


def _is_description(path: str) -> bool:
    name = PurePosixPath(path).name
    return name in ("dataset_info.json", "dataset_infos.json", "state.json", "dataset_dict.json") or any(
        part.startswith(".") for part in PurePosixPath(path).parts
    )


def _fetch_from_hub(
    dataset: DatasetSpec | EvalDatasetSpec, credentials: Credentials, folder: Path, role: Role, policy: RetryPolicy | None
) -> FetchedDataset:
    repository = HubRepository(dataset.uri, "dataset", role, credentials, dataset.endpoint_url, policy)
    listing = repository.list_files(dataset.revision)
    split = dataset.split or ("train" if role == "dataset" else "test")
    files = choose_split(dataset.uri, listing.files, listing.card, split)
    repository.download(files, listing.commit, folder)
    return FetchedDataset(folder, [folder / file.path for file in files], listing.commit)


def choose_split(uri: str, files: Sequence[StoredFile], card: Mapping[str, Any], split: str) -> list[StoredFile]:
    """Choose the data files of ``split`` in a hub dataset: by the ``configs`` of its card where there are any, else by the names of files
    and folders (``data/train-00000-of-00001.parquet``, ``test.jsonl``). Files that name no split at all are ``train``.

    :raises DataInvalid: there is no such split, or no data file at all.
    """
    data = choose_data_files(uri, files)
    configs = card.get("configs")
    if isinstance(configs, list) and configs:
        by_split = _read_configs(uri, data, configs)
    else:
        by_split = {}
        for file in data:
            by_split.setdefault(_split_of(file.path), []).append(file)
    if split not in by_split:
        known = ", ".join(sorted(by_split)) or "none"
        raise DataInvalid(f"{uri} has no split {split!r}; it has: {known}. Set the split to one of them")
    return by_split[split]


def _split_of(path: str) -> str:
    words = [word.lower() for word in _WORD.findall(path)]
    for word in reversed(words):  # the file's own name goes before its folders'
        for split, aliases in _ALIASES.items():
            if word in aliases:
                return split
    return "train"


def _read_configs(uri: str, data: Sequence[StoredFile], configs: Sequence[Any]) -> dict[str, list[StoredFile]]:
    usable = [config for config in configs if isinstance(config, Mapping) and config.get("data_files")]
    chosen = [config for config in usable if config.get("default") is True or config.get("config_name") == "default"] or usable
    if len(chosen) != 1:
        names = ", ".join(str(config.get("config_name")) for config in usable)
        raise DataInvalid(
            f"{uri} has several configurations ({names}) and no default one; put the files of the one you want in a dataset of their own"
        )
    entries = chosen[0]["data_files"]
    if not isinstance(entries, list):
        entries = [{"split": "train", "path": entries}]
    by_split: dict[str, list[StoredFile]] = {}
    for entry in entries:
        split, paths = (entry.get("split", "train"), entry.get("path")) if isinstance(entry, Mapping) else ("train", entry)
        patterns = [str(path).removeprefix("./") for path in (paths if isinstance(paths, list) else [paths])]
        matching = [file for file in data if any(fnmatchcase(file.path, pattern) for pattern in patterns)]
        by_split.setdefault(str(split), []).extend(matching)
    return {split: found for split, found in by_split.items() if found}
