"""Folders of files as OCI images, and back.

What is pushed is a plain image whose layers are uncompressed tar files: every container runtime can mount it as an image volume. It says
the same for amd64 and arm64, since files have no architecture.
"""

import gzip
import hashlib
import io
import json
import logging
import shutil
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from finetune_trainer.errors import ConfigInvalid
from finetune_trainer.storage.digest import digest_bytes
from finetune_trainer.storage.registry import INDEX_TYPE, MANIFEST_TYPE, Registry
from finetune_trainer.storage.store import check_relative

logger = logging.getLogger(__name__)

LAYER_TYPE: Final = "application/vnd.oci.image.layer.v1.tar"
CONFIG_TYPE: Final = "application/vnd.oci.image.config.v1+json"
TITLE: Final = "org.opencontainers.image.title"
_PLATFORMS: Final = ("amd64", "arm64")
_SMALL: Final = 2**20
"""Files up to this size share a layer."""
_MAX_LAYERS: Final = 100
_BLOCK: Final = 2**20
_COMPLETE: Final = ".complete"


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer that is made from files as it is read, never held whole."""

    folder: Path
    paths: tuple[str, ...]
    digest: str
    size: int

    def read(self) -> Iterator[bytes]:
        """Yield its content."""
        return _tar(self.folder, self.paths)


def build_layers(folder: Path) -> list[Layer]:
    """Return the layers of the files in ``folder``: one for all small files, one for each large one. The same files make the same bytes."""
    paths = sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())
    small = tuple(path for path in paths if (folder / path).stat().st_size <= _SMALL)
    groups: list[tuple[str, ...]] = [(path,) for path in paths if path not in set(small)]
    if len(groups) > _MAX_LAYERS:
        groups = [tuple(paths[start::_MAX_LAYERS]) for start in range(_MAX_LAYERS)]
        small = ()
    layers = []
    for group in ([small] if small else []) + groups:
        digest, size = hashlib.sha256(), 0
        for block in _tar(folder, group):
            digest.update(block)
            size += len(block)
        layers.append(Layer(folder, group, f"sha256:{digest.hexdigest()}", size))
    return layers


def _tar(folder: Path, paths: tuple[str, ...]) -> Iterator[bytes]:
    for path in paths:
        file = folder / path
        entry = tarfile.TarInfo(path)
        entry.size, entry.mode = file.stat().st_size, 0o644
        yield entry.tobuf(tarfile.PAX_FORMAT)
        with file.open("rb") as stream:
            while block := stream.read(_BLOCK):
                yield block
        yield b"\0" * (-entry.size % tarfile.BLOCKSIZE)
    yield b"\0" * (2 * tarfile.BLOCKSIZE)


def push_image(folder: Path, registry: Registry, annotations: Mapping[str, str]) -> str:
    """Push the files in ``folder`` as an image and return the digest that it is pulled by.

    Layers first, then a manifest for each architecture, then the index under the tag: until then the tag is what it was. Killed at any
    moment, it may be called again, and sends only what is missing; the same files and annotations always give the same digest.

    :raises StorageFailed: the registry failed after retries, refused, or holds something else afterwards.
    """
    layers = build_layers(folder)
    for layer in layers:
        registry.upload_blob(layer.digest, layer.size, layer.read)
    described = [{"mediaType": LAYER_TYPE, "digest": layer.digest, "size": layer.size} for layer in layers]
    entries = []
    for architecture in _PLATFORMS:
        config = _encode(
            {
                "architecture": architecture,
                "os": "linux",
                "config": {},
                "rootfs": {"type": "layers", "diff_ids": [layer.digest for layer in layers]},
            }
        )
        _upload_bytes(registry, config)
        manifest = _encode(
            {
                "schemaVersion": 2,
                "mediaType": MANIFEST_TYPE,
                "config": {"mediaType": CONFIG_TYPE, "digest": digest_bytes(config), "size": len(config)},
                "layers": described,
                "annotations": dict(annotations),
            }
        )
        digest = registry.put_manifest(digest_bytes(manifest), manifest, MANIFEST_TYPE)
        platform = {"architecture": architecture, "os": "linux"}
        entries.append({"mediaType": MANIFEST_TYPE, "digest": digest, "size": len(manifest), "platform": platform})
    index = _encode({"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": entries, "annotations": dict(annotations)})
    digest = registry.put_manifest(registry.name.reference, index, INDEX_TYPE)
    registry.get_manifest(digest)
    logger.info("pushed %s: %d layers, %s", registry.uri, len(layers), digest)
    return digest


def pull_image(registry: Registry, folder: Path) -> str:
    """Bring the files of an image or artifact to ``folder`` and return the digest that its name resolved to.

    Layers are tar files (also gzipped), or plain files that name themselves by the annotation of their title, as ORAS pushes them. Links
    and whatever would leave the folder are refused. Killed at any moment, the next call begins anew; what is whole is kept.
    """
    manifest, digest = registry.get_manifest(registry.name.reference)
    done = folder / _COMPLETE
    if done.is_file() and done.read_text(encoding="ascii") == digest:
        return digest
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    if isinstance(entries := manifest.get("manifests"), list):
        manifest = _choose(registry, entries)
    layers = manifest.get("layers")
    if not isinstance(layers, list) or not layers:
        raise ConfigInvalid(f"{registry.uri} has no layers: it is neither an image nor an artifact of files")
    blob = folder / ".layer"
    for layer in layers:
        registry.download_blob(str(layer["digest"]), blob)
        _unpack(registry.uri, layer, blob, folder)
        blob.unlink()
    done.write_text(digest, encoding="ascii")
    logger.info("pulled %s: %s", registry.uri, digest)
    return digest


def _choose(registry: Registry, entries: list[Any]) -> dict[str, Any]:
    usable = [entry for entry in entries if isinstance(entry, dict) and "digest" in entry]
    here = [entry for entry in usable if (entry.get("platform") or {}).get("os", "linux") == "linux"]
    if not here:
        raise ConfigInvalid(f"{registry.uri} has no image for linux")
    return registry.get_manifest(str(here[0]["digest"]))[0]


def _unpack(uri: str, layer: Mapping[str, Any], blob: Path, folder: Path) -> None:
    title = (layer.get("annotations") or {}).get(TITLE)
    kind = str(layer.get("mediaType", ""))
    if "tar" not in kind:
        if not title:
            raise ConfigInvalid(f"{uri} has a layer of the type {kind} without a title; push files by name, or an image")
        _place(folder, str(title), blob.open("rb"))
        return
    if kind.endswith("zstd"):
        raise ConfigInvalid(f"{uri} has layers compressed by zstd; push it uncompressed or gzipped")
    with blob.open("rb") as raw:
        gzipped = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        stream: Any = gzip.GzipFile(fileobj=raw) if gzipped else raw
        try:
            with tarfile.open(fileobj=io.BufferedReader(stream) if gzipped else stream, mode="r|") as archive:
                for entry in archive:
                    if entry.isdir():
                        continue
                    content = archive.extractfile(entry) if entry.isreg() else None
                    if content is None or Path(entry.name).name.startswith(".wh."):
                        raise ConfigInvalid(f"{uri} has {entry.name!r} in it, which is no plain file; links and deletions are not followed")
                    _place(folder, entry.name.removeprefix("./").lstrip("/"), content)
        except (tarfile.TarError, EOFError, gzip.BadGzipFile) as error:
            raise ConfigInvalid(f"{uri} has a layer that can't be unpacked: {error}") from None


def _place(folder: Path, name: str, content: Any) -> None:  # noqa: ANN401
    target = folder / check_relative(name)
    target.parent.mkdir(parents=True, exist_ok=True)
    with content, target.open("wb") as file:
        shutil.copyfileobj(content, file, _BLOCK)


def _upload_bytes(registry: Registry, content: bytes) -> None:
    registry.upload_blob(digest_bytes(content), len(content), lambda: iter([content]))


def _encode(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
