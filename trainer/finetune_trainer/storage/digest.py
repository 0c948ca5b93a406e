"""SHA-256 of files and of sets of files."""

import hashlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path


def digest_bytes(content: bytes) -> str:
    """Return the digest of ``content`` as ``sha256:…``."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def digest_file(file: Path) -> str:
    """Return the digest of a file as ``sha256:…``, read in blocks."""
    with file.open("rb") as stream:
        return f"sha256:{hashlib.file_digest(stream, 'sha256').hexdigest()}"


def digest_files(files: Mapping[str, Path]) -> dict[str, str]:
    """Return the digest of each of ``files``, by its name; hashed in parallel, since hashlib lets other threads run."""
    with ThreadPoolExecutor(4, thread_name_prefix="digest") as pool:
        return dict(zip(files, pool.map(digest_file, files.values()), strict=True))


def combine_digests(digests: Mapping[str, str]) -> str:
    """Return one digest for several files: that of a lone file is its own; else that of the lines ``<hex>  <name>``, sorted by name,
    as ``sha256sum`` prints them.
    """
    if len(digests) == 1:
        return next(iter(digests.values()))
    lines = "".join(f"{digests[name].removeprefix('sha256:')}  {name}\n" for name in sorted(digests))
    return digest_bytes(lines.encode())
