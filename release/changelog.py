"""``python -m release.changelog``: CHANGELOG.md has a section for the version of this tree, with something in it."""

import re
import sys
from pathlib import Path
from typing import Final

from release.version import ROOT, compute_semantic_version, read_version

CHANGELOG: Final = ROOT / "CHANGELOG.md"


def read_section(text: str, version: str) -> str | None:
    """Return what the changelog says of a version, None where it has no section for it."""
    found = re.search(rf"^## \[?{re.escape(version)}\]?(?: [^\n]*)?$\n(.*?)(?=^## |\Z)", text, re.DOTALL | re.MULTILINE)
    return found[1].strip() if found else None


def main(path: Path = CHANGELOG) -> int:
    """Print the section; exit 1 where it is missing or empty."""
    version = compute_semantic_version(read_version())
    section = read_section(path.read_text(), version)
    if not section:
        sys.stderr.write(f"error: CHANGELOG.md: nothing under the heading '## {version}'; move what stands under 'Unreleased' there\n")
        return 1
    sys.stdout.write(section + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
