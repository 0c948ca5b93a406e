"""Bills of materials: what an image has, no more and no less, and the same bytes for the same tree."""

import sys
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from release.packages import IMAGES, list_packages
from release.sbom import PYTHON, build_bill, export_lock, list_locked

WRITTEN = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
DOCKERFILE = (Path(__file__).parents[3] / "Dockerfile").read_text()


@cache
def make_bill(image: str) -> dict[str, Any]:
    return build_bill(image, "1.2.0", export_lock(image), list_locked(image), list_packages(IMAGES[image]), WRITTEN)


@pytest.mark.parametrize("image", sorted(IMAGES))
def test_the_lock_and_what_is_installed_agree_on_what_an_image_has(image: str) -> None:
    """Two sources: uv.lock, read for the Python that runs this, and the metadata of what is installed in it."""
    assert list_locked(image, "{}.{}".format(*sys.version_info)) == {
        name: each.version for name, each in list_packages(IMAGES[image]).items()
    }


@pytest.mark.parametrize("image", sorted(IMAGES))
def test_a_bill_has_each_package_that_is_locked_for_the_image_once(image: str) -> None:
    listed = sorted((each["name"], each["version"]) for each in make_bill(image)["components"])
    assert listed == sorted(list_locked(image).items())


def test_the_bills_are_for_the_python_of_the_images() -> None:
    assert f"ARG BASE_IMAGE=python:{PYTHON}-slim\n" in DOCKERFILE


@pytest.mark.parametrize("image", sorted(IMAGES))
def test_every_package_has_a_digest_an_address_and_a_licence(image: str) -> None:
    for component in make_bill(image)["components"]:
        assert component["purl"].startswith("pkg:pypi/")
        assert component.get("licenses") or component["name"] == "cuda-toolkit", component["name"]
        hashes = [each["alg"] for reference in component["externalReferences"] for each in reference["hashes"]]
        assert set(hashes) == {"SHA-256"}
        assert not any("macosx" in each["url"] or "-win" in each["url"] for each in component["externalReferences"])


@pytest.mark.parametrize("image", sorted(IMAGES))
def test_dependencies_name_components_of_the_bill(image: str) -> None:
    bill = make_bill(image)
    known = {each["bom-ref"] for each in (*bill["components"], bill["metadata"]["component"])}
    named = {ref for each in bill["dependencies"] for ref in (each["ref"], *each["dependsOn"])}
    assert named <= known


def test_the_same_tree_gives_the_same_bill() -> None:
    again = build_bill("operator", "1.2.0", export_lock("operator"), list_locked("operator"), list_packages(IMAGES["operator"]), WRITTEN)
    assert again == make_bill("operator")


def test_the_images_are_built_with_these_extras() -> None:
    assert 'extras="--extra $target --extra tracing"; if [ $target = trainer ]; then extras="$extras --extra trackers"; fi' in DOCKERFILE
    assert IMAGES == {"operator": ("operator", "tracing"), "trainer": ("trainer", "trackers", "tracing")}
