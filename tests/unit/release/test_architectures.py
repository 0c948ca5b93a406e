"""Images for several architectures: the lock has a wheel of each package for each of them."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.tags import Tag, compatible_tags, cpython_tags
from packaging.utils import parse_wheel_filename

from release.packages import IMAGES
from release.sbom import PYTHON, list_locked

ROOT = Path(__file__).parents[3]
VERSION = tuple(int(part) for part in PYTHON.split("."))
NEWEST_GLIBC = 41
"""Debian 13's, which the base image is made of."""


def list_tags(machine: str) -> set[Tag]:
    platforms = [
        *(f"manylinux_2_{minor}_{machine}" for minor in range(5, NEWEST_GLIBC + 1)),
        *(f"manylinux{name}_{machine}" for name in (1, 2010, 2014)),
    ]
    return {*cpython_tags(VERSION, platforms=platforms), *compatible_tags(VERSION, "cp312", platforms)}


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
@pytest.mark.parametrize("image", sorted(IMAGES))
def test_no_package_of_an_image_is_compiled_while_it_is_built(image: str, machine: str) -> None:
    fits = list_tags(machine)
    packages = {(each["name"], each.get("version")): each for each in tomllib.loads((ROOT / "uv.lock").read_text())["package"]}
    lacking = []
    for name, version in list_locked(image, machine=machine).items():
        wheels = (each["url"].rpartition("/")[2] for each in packages[name, version].get("wheels", ()))
        if not any(parse_wheel_filename(wheel)[3] & fits for wheel in wheels):
            lacking.append(f"{name} {version}")
    assert lacking == []


def test_what_is_installed_is_of_the_target_s_architecture() -> None:
    """A stage that runs on the builder's architecture may make nothing that has compiled parts."""
    stages = re.findall(r"^FROM (?:--platform=(\S+) )?(\S+) AS (\S+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    of_builder: set[str] = set()
    for platform, base, name in stages:
        if platform == "$BUILDPLATFORM" or base in of_builder:
            of_builder.add(name)
    assert of_builder == {"tools", "requirements", "project"}
