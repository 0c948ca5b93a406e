"""OCI image archives: the sandbox image made without any tool, and what an archive says of itself."""

import hashlib
import io
import json
import os
import shutil
import tarfile
from pathlib import Path
from typing import Any

from finetune_devcluster.files import write_atomic

_OCI_NAME = "org.opencontainers.image.ref.name"
_CONTAINERD_NAME = "io.containerd.image.name"
_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_CONFIG = "application/vnd.oci.image.config.v1+json"
_LAYER = "application/vnd.oci.image.layer.v1.tar"


def build_single_file_image(program: bytes, file_name: str, architecture: str, reference: str) -> bytes:
    """Build the OCI archive of an image that holds one program and runs it. The same input gives the same bytes."""
    layer = _build_tar({file_name: program}, mode=0o755)
    layer_digest = _digest(layer)
    config = _encode(
        {
            "architecture": architecture,
            "os": "linux",
            "config": {"Entrypoint": [f"/{file_name}"], "User": "65535:65535"},
            "rootfs": {"type": "layers", "diff_ids": [layer_digest]},
        }
    )
    manifest = _encode(
        {
            "schemaVersion": 2,
            "mediaType": _MANIFEST,
            "config": _describe(_CONFIG, config),
            "layers": [_describe(_LAYER, layer)],
        }
    )
    entry = {
        **_describe(_MANIFEST, manifest),
        "platform": {"architecture": architecture, "os": "linux"},
        "annotations": {_OCI_NAME: reference},
    }
    blobs = {f"blobs/sha256/{hashlib.sha256(blob).hexdigest()}": blob for blob in (layer, config, manifest)}
    return _build_tar(
        {
            "oci-layout": _encode({"imageLayoutVersion": "1.0.0"}),
            "index.json": _encode({"schemaVersion": 2, "manifests": [entry]}),
            **blobs,
        },
        mode=0o644,
    )


def make_single_file_image(path: Path, program: Path, architecture: str, reference: str) -> Path:
    """Write the archive of `build_single_file_image` to `path`."""
    return write_atomic(path, build_single_file_image(program.read_bytes(), program.name, architecture, reference))


class ImageArchive:
    """An OCI image layout: a folder, or an uncompressed tar archive of one.

    Raises:
        NotAnImageLayout: it is something else: a Docker archive, a compressed one, no archive at all.
    """

    def __init__(self, path: Path) -> None:
        """Open the layout and read what it says of its images."""
        self.path = path
        self._members = {} if path.is_dir() else _list_members(path)
        self._index = self._read_object("index.json")
        self.manifests: list[dict[str, Any]] = self._index.get("manifests", [])

    @property
    def names(self) -> dict[str, str]:
        """The manifest digest of each named image."""
        named: dict[str, str] = {}
        for entry in self.manifests:
            notes = entry.get("annotations", {})
            if name := notes.get(_CONTAINERD_NAME) or notes.get(_OCI_NAME):
                named[name] = entry["digest"]
        return named

    def list_layers(self) -> list[dict[str, Any]]:
        """Return the descriptors of all layers, the bulk of an image."""
        layers: dict[str, dict[str, Any]] = {}
        pending = list(self.manifests)
        while pending:
            entry = pending.pop()
            value = self._read_object(_blob_name(entry["digest"]))
            pending += value.get("manifests", [])
            layers |= {layer["digest"]: layer for layer in value.get("layers", [])}
        return list(layers.values())

    def build_outline(self) -> bytes:
        """Build the tar archive of the layout without its layers: a few kilobytes that describe it whole."""
        names = ["oci-layout"]
        pending = list(self.manifests)
        while pending:
            entry = pending.pop()
            value = self._read_object(_blob_name(entry["digest"]))
            pending += value.get("manifests", [])
            names.append(_blob_name(entry["digest"]))
            if config := value.get("config"):
                names.append(_blob_name(config["digest"]))
        # containerd puts a prefix of its own before a name that stands in the OCI annotation alone.
        entries = [
            {**each, "annotations": {_CONTAINERD_NAME: each["annotations"][_OCI_NAME], **each["annotations"]}}
            if _OCI_NAME in each.get("annotations", {})
            else each
            for each in self.manifests
        ]
        files = {"index.json": _encode({**self._index, "manifests": entries})}
        return _build_tar(files | {name: self._read(name) for name in dict.fromkeys(names)}, mode=0o644)

    def write_blob(self, digest: str, target: Path) -> None:
        """Put a blob at `target`, whole or not at all: by a second name of the same file where that can be."""
        temporary = target.with_name(f".{target.name}.part")
        temporary.unlink(missing_ok=True)
        name = _blob_name(digest)
        try:
            if self.path.is_dir():
                try:
                    os.link(self.path / name, temporary)
                except OSError:
                    shutil.copyfile(self.path / name, temporary)
            else:
                with self._open(name) as source, temporary.open("wb") as sink:
                    shutil.copyfileobj(source, sink, 1 << 22)
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)

    def _read_object(self, name: str) -> dict[str, Any]:
        try:
            value = json.loads(self._read(name))
        except ValueError as error:
            raise NotAnImageLayout(f"{self.path}: {name} is no JSON: {error}") from None
        if not isinstance(value, dict):
            raise NotAnImageLayout(f"{self.path}: {name} is no JSON object")
        return value

    def _read(self, name: str) -> bytes:
        with self._open(name) as stream:
            return stream.readall()

    def _open(self, name: str) -> io.RawIOBase:
        if self.path.is_dir():
            try:
                return (self.path / name).open("rb", buffering=0)
            except FileNotFoundError:
                raise NotAnImageLayout(f"{self.path} lacks {name}") from None
        if name not in self._members:
            raise NotAnImageLayout(f"{self.path} lacks {name}")
        offset, size = self._members[name]
        return _Window(self.path, offset, size)


class NotAnImageLayout(ValueError):
    """A path holds no OCI image layout that could be read in place."""


class _Window(io.RawIOBase):
    """A part of a file, read as a file."""

    def __init__(self, path: Path, offset: int, size: int) -> None:
        self._stream = path.open("rb")
        self._stream.seek(offset)
        self._left = size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:  # noqa: ANN401
        chunk = self._stream.read(min(len(buffer), self._left))
        buffer[: len(chunk)] = chunk
        self._left -= len(chunk)
        return len(chunk)

    def close(self) -> None:
        self._stream.close()
        super().close()


def _list_members(archive: Path) -> dict[str, tuple[int, int]]:
    # Opened without a search for compression: members are then skipped by seeking, and a large archive costs nothing.
    try:
        with tarfile.open(archive, "r:") as opened:
            return {each.name.removeprefix("./"): (each.offset_data, each.size) for each in opened if each.isfile()}
    except tarfile.TarError as error:
        raise NotAnImageLayout(f"{archive} is no plain tar archive: {error}") from None


def _blob_name(digest: str) -> str:
    return f"blobs/{digest.replace(':', '/')}"


def _build_tar(files: dict[str, bytes], mode: int) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), mode
            archive.addfile(entry, io.BytesIO(content))
    return stream.getvalue()


def _encode(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def _digest(blob: bytes) -> str:
    return f"sha256:{hashlib.sha256(blob).hexdigest()}"


def _describe(media_type: str, blob: bytes) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": _digest(blob), "size": len(blob)}
