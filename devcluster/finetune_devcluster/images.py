"""OCI image archives: the sandbox image made without any tool, and what an archive says of itself."""

import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import Any

from finetune_devcluster.files import write_atomic

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
        # containerd names an imported image by its own annotation, other tools by the OCI one.
        "annotations": {"io.containerd.image.name": reference, "org.opencontainers.image.ref.name": reference},
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
