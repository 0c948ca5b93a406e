"""The one version of everything: read from the newest tag by the build backend, and written in the two ways that its readers ask for.

Python's packages take PEP 440 (``0.2.0rc1``), Helm and image tags take semantic versions (``0.2.0-rc.1``). An image tag can't hold a
``+``, so what tells a commit from the release before it is a part of the pre-release: ``0.2.1-dev.5.g1f0c``.
"""

import argparse
import sys
from pathlib import Path
from typing import Final

from hatchling.metadata.core import ProjectMetadata
from hatchling.plugin.manager import PluginManager
from packaging.version import InvalidVersion, Version

ROOT: Final = Path(__file__).parents[1]
UNTAGGED: Final = "0.0.0.dev0"
"""The version of source without history, as in pyproject.toml."""
_STAGES: Final = {"a": "alpha", "b": "beta", "rc": "rc"}


class VersionUnusable(Exception):
    """A version can't be written as a semantic version, or is not one that may be released."""


def read_version(root: Path = ROOT) -> str:
    """Return the version in PEP 440's form that a wheel built from the tree at ``root`` has."""
    return str(ProjectMetadata(str(root), PluginManager()).version)


def compute_semantic_version(version: str) -> str:
    """Return a version of PEP 440 as a semantic version that may also be the tag of an image.

    Raises:
        VersionUnusable: it has an epoch or a post-release, for which semantic versions have no word.
    """
    try:
        parsed = Version(version)
    except InvalidVersion as error:
        raise VersionUnusable(f"{version}: not a version in the sense of PEP 440; tags are written like v0.2.0 or v0.2.0-rc.1") from error
    if parsed.epoch or parsed.post is not None or len(parsed.release) > 3:
        raise VersionUnusable(f"{version}: epochs, post-releases and fourth numbers have no semantic version; tag the next patch instead")
    numbers = ".".join(str(number) for number in (*parsed.release, 0, 0)[:3])
    stages: list[str] = []
    if parsed.pre:
        stages += [_STAGES[parsed.pre[0]], str(parsed.pre[1])]
    if parsed.dev is not None:
        stages += ["dev", str(parsed.dev)]
    if parsed.local:
        stages += parsed.local.split(".")
    return f"{numbers}-{'.'.join(stages)}" if stages else numbers


def check_releasable(version: str) -> None:
    """Raise unless the version is exactly a tag's.

    Raises:
        VersionUnusable: the tree is not at a tag, or has changes that are in no commit.
    """
    parsed = Version(version)
    if parsed.dev is not None or parsed.local:
        raise VersionUnusable(
            f"{version}: the tree is not exactly at a tag; commit everything, then: git tag --sign v<major>.<minor>.<patch> and try again"
        )
    compute_semantic_version(version)


def main(arguments: list[str] | None = None) -> int:
    """Print the version. Exits 1 where it can't be had in the form asked for."""
    parser = argparse.ArgumentParser(prog="python -m release.version", description="Print the version of this tree.")
    parser.add_argument("--semantic", action="store_true", help="as the chart and the images have it (default: as the wheel has it)")
    parser.add_argument("--check", action="store_true", help="fail unless the tree is exactly at a tag")
    options = parser.parse_args(arguments)
    version = read_version()
    try:
        if options.check:
            check_releasable(version)
        sys.stdout.write((compute_semantic_version(version) if options.semantic else version) + "\n")
    except VersionUnusable as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
