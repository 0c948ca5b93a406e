"""What each image carries: the distributions that the project asks for with the image's extras, as this environment has them."""

from importlib.metadata import Distribution, PackageNotFoundError, distribution
from typing import Final

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

IMAGES: Final = {"operator": ("operator", "tracing"), "trainer": ("trainer", "trackers", "tracing")}
"""Extras of each image, as in the Dockerfile."""
EXTRAS: Final = {**IMAGES, "cli": ("cli",)}
"""The command line too: it is no image, but people install it."""
PROJECT: Final = "finetune-operator"


class PackageMissing(Exception):
    """A distribution that an image needs is not installed here."""


def list_packages(extras: tuple[str, ...], project: str = PROJECT) -> dict[str, Distribution]:
    """Return what `project` needs with these extras on this machine's system and Python, by canonical name, without itself.

    Raises:
        PackageMissing: the environment lacks one of them.
    """
    found: dict[str, Distribution] = {}
    seen: set[tuple[str, str]] = set()
    waiting = [(project, extra) for extra in ("", *extras)]
    while waiting:
        name, extra = waiting.pop()
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        try:
            found[name] = distribution(name)
        except PackageNotFoundError as error:
            raise PackageMissing(f"{name} is not installed; run: make setup") from error
        for line in found[name].requires or ():
            needed = Requirement(line)
            if needed.marker is None or needed.marker.evaluate({"extra": extra}):
                waiting += [(canonicalize_name(needed.name), more) for more in ("", *needed.extras)]
    return {name: each for name, each in sorted(found.items()) if name != canonicalize_name(project)}
