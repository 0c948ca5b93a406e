"""Check a downloaded artifact before it is served: the manifest's digest, and by it every file.

Usage: ``verify.py FOLDER sha256:…``, with the digest that ``status.artifacts`` of the FineTuneJob names. Needs Python alone.
"""

import hashlib
import json
import sys
from pathlib import Path


def compute_digest(file: Path) -> str:
    """Return the SHA-256 of a file's content as status and manifests write it."""
    with file.open("rb") as content:
        return f"sha256:{hashlib.file_digest(content, 'sha256').hexdigest()}"


def find_faults(folder: Path, digest: str) -> list[str]:
    """Return what is wrong with the artifact in ``folder``; nothing if it is the one of ``digest`` to the byte."""
    manifest = folder / "manifest.json"
    if not manifest.is_file():
        return [f"{folder} has no manifest.json: nothing was published there, or the download is not complete"]
    if (found := compute_digest(manifest)) != digest:
        return [f"the manifest is {found}, not {digest}"]
    files = json.loads(manifest.read_text(encoding="utf-8"))["files"]
    missing = [each["path"] for each in files if not (folder / each["path"]).is_file()]
    changed = [each["path"] for each in files if each["path"] not in missing and compute_digest(folder / each["path"]) != each["digest"]]
    return [f"{path} is missing" for path in missing] + [f"{path} is not what the manifest says" for path in changed]


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    faults = find_faults(Path(sys.argv[1]), sys.argv[2])
    if faults:
        sys.exit("not served:\n" + "\n".join(faults))
    print(f"{sys.argv[1]} is {sys.argv[2]}")
