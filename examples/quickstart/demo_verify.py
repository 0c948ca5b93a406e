"""Checking an artifact as whoever deploys it would: by its manifest, whose own digest stands in the FineTuneJob's status."""

import hashlib
import json
from pathlib import Path, PurePosixPath
from typing import Any

from demo_steps import DemoFailed, say
from demo_target import Store


def fetch_artifact(store: Store, artifact: dict[str, Any], folder: Path) -> None:
    """Download an artifact of ``status.artifacts`` into ``folder`` and verify every byte of it.

    :raises DemoFailed: a file is missing, is too much, or is not what the manifest says.
    """
    files = _connect(store)
    root = artifact["uri"].removeprefix("s3://")
    manifest_bytes: bytes = files.cat_file(f"{root}/manifest.json")
    digest = _digest(manifest_bytes)
    if digest != artifact["digest"]:
        raise DemoFailed(f"manifest.json has digest {digest}, status says {artifact['digest']}")
    say(f"{artifact['uri']}/manifest.json  {digest}  = status.artifacts[0].digest")
    listed = json.loads(manifest_bytes)["files"]
    stored = {str(path).removeprefix(f"{root}/") for path in files.find(root)}
    if stored != {entry["path"] for entry in listed} | {"manifest.json"}:
        raise DemoFailed(f"the folder holds {sorted(stored)}, the manifest names {sorted(entry['path'] for entry in listed)}")
    for entry in listed:
        if ".." in PurePosixPath(entry["path"]).parts:
            raise DemoFailed(f"the manifest names a path outside its folder: {entry['path']}")
        content: bytes = files.cat_file(f"{root}/{entry['path']}")
        if len(content) != entry["sizeBytes"] or _digest(content) != entry["digest"]:
            raise DemoFailed(f"{entry['path']}: {len(content)} bytes, {_digest(content)}; the manifest says {entry}")
        path = folder / entry["path"]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        say(f"{entry['path']:28} {entry['sizeBytes']:>9,} bytes  {entry['digest'][:19]}…  verified")
    if (size := sum(entry["sizeBytes"] for entry in listed)) != artifact["sizeBytes"]:
        raise DemoFailed(f"the files have {size} bytes, status says {artifact['sizeBytes']}")


def remove_outputs(store: Store, prefix: str) -> None:
    """Remove what an earlier demo wrote below ``prefix`` (``bucket/path``), so that what is found later is new."""
    files = _connect(store)
    if files.exists(prefix):
        files.rm(prefix, recursive=True)


def _connect(store: Store) -> Any:  # noqa: ANN401 - s3fs has no types
    import s3fs  # noqa: PLC0415 - heavy

    return s3fs.S3FileSystem(
        key=store.access_key,
        secret=store.secret_key,
        endpoint_url=store.endpoint,
        client_kwargs={"region_name": store.region},
        config_kwargs={"s3": {"addressing_style": "path"}, "connect_timeout": 10, "read_timeout": 60},
        use_listings_cache=False,
        skip_instance_cache=True,
    )


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"
