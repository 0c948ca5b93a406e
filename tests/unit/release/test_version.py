"""One version, from the tag, wherever a wheel may be built: a clone with tags or without, an sdist, a tree without history."""

import shutil
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hatchling.builders.sdist import SdistBuilder

from release.chart import package_chart
from release.version import ROOT, UNTAGGED, VersionUnusable, check_releasable, compute_semantic_version, read_version

Git = Callable[..., str]


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The project's metadata in a folder of its own, without history."""
    monkeypatch.delenv("SETUPTOOLS_SCM_PRETEND_VERSION", raising=False)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    root = tmp_path / "tree"
    (root / "api" / "finetune_api").mkdir(parents=True)
    (root / "api" / "finetune_api" / "__init__.py").touch()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, root)
    return root


@pytest.fixture
def git(tree: Path) -> Git:
    """Git in the tree, whose one commit holds everything."""

    def run(*words: str) -> str:
        who = ["-c", "user.name=Test", "-c", "user.email=test@example.com", "-c", "commit.gpgSign=false", "-c", "tag.gpgSign=false"]
        return subprocess.run(["git", *who, *words], cwd=tree, check=True, capture_output=True, text=True, timeout=30).stdout.strip()

    run("init", "--quiet", "--initial-branch=main")
    run("add", "--all")
    run("commit", "--quiet", "--message=all")
    return run


def test_a_tagged_commit_has_the_tag_s_version(tree: Path, git: Git) -> None:
    git("tag", "v1.2.0-rc.1")
    assert read_version(tree) == "1.2.0rc1"
    check_releasable(read_version(tree))


def test_a_commit_after_the_tag_names_itself(tree: Path, git: Git) -> None:
    git("tag", "v1.2.0")
    git("commit", "--quiet", "--allow-empty", "--message=more")
    version = read_version(tree)
    assert version == f"1.2.1.dev1+g{git('rev-parse', '--short=9', 'HEAD')}"
    with pytest.raises(VersionUnusable, match="not exactly at a tag"):
        check_releasable(version)


def test_a_change_that_is_not_committed_is_no_release(tree: Path, git: Git) -> None:
    git("tag", "v1.2.0")
    (tree / "README.md").write_text("changed")
    with pytest.raises(VersionUnusable, match="not exactly at a tag"):
        check_releasable(read_version(tree))


def test_a_clone_without_tags_builds_and_is_no_release(tree: Path, git: Git) -> None:
    version = read_version(tree)
    assert version.startswith("0.0.0.dev1+g")
    assert git("rev-parse", "--short=7", "HEAD") in version
    with pytest.raises(VersionUnusable):
        check_releasable(version)


def test_a_tree_without_history_builds_and_is_no_release(tree: Path) -> None:
    assert read_version(tree) == UNTAGGED
    with pytest.raises(VersionUnusable):
        check_releasable(UNTAGGED)


def test_a_wheel_from_an_sdist_has_the_sdist_s_version(tree: Path, git: Git, tmp_path: Path) -> None:
    git("tag", "v1.2.0")
    (archive,) = SdistBuilder(str(tree)).build(directory=str(tmp_path / "dist"))
    with tarfile.open(archive) as tar:
        tar.extractall(tmp_path / "unpacked", filter="data")
    assert read_version(tmp_path / "unpacked" / "finetune_operator-1.2.0") == "1.2.0"


def test_an_image_s_build_is_told_its_version(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SETUPTOOLS_SCM_PRETEND_VERSION", "1.2.0")
    assert read_version(tree) == "1.2.0"


def test_the_dockerfile_tells_the_build_by_that_very_name() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text()
    assert 'SETUPTOOLS_SCM_PRETEND_VERSION="${VERSION}"' in dockerfile
    assert f"ARG VERSION={UNTAGGED}\n" in dockerfile


@pytest.mark.parametrize(
    ("version", "semantic"),
    [
        ("1.2.0", "1.2.0"),
        ("1.2", "1.2.0"),
        ("1.2.0rc1", "1.2.0-rc.1"),
        ("1.2.0b2", "1.2.0-beta.2"),
        ("1.2.0a3.dev4", "1.2.0-alpha.3.dev.4"),
        ("1.2.1.dev5+g1f0c.d20260102", "1.2.1-dev.5.g1f0c.d20260102"),
        (UNTAGGED, "0.0.0-dev.0"),
    ],
)
def test_chart_and_images_have_the_semantic_version(version: str, semantic: str) -> None:
    assert compute_semantic_version(version) == semantic


@pytest.mark.parametrize("version", ["1!1.0", "1.0.post1", "1.2.3.4", "latest"])
def test_what_semantic_versions_cannot_say_is_refused(version: str) -> None:
    with pytest.raises(VersionUnusable):
        compute_semantic_version(version)


def test_the_chart_is_packaged_with_that_version_and_names_images_of_it(tmp_path: Path) -> None:
    archive = package_chart("1.2.0-rc.1", tmp_path)
    with tarfile.open(archive) as tar:
        member = tar.extractfile("finetune-operator/Chart.yaml")
        assert member
        about: dict[str, Any] = yaml.safe_load(member)
    assert (about["version"], about["appVersion"]) == ("1.2.0-rc.1", "1.2.0-rc.1")


def test_no_release_s_version_is_written_in_the_tree() -> None:
    """A second place would be forgotten one day."""
    assert "\nversion = " not in (ROOT / "pyproject.toml").read_text()
    about = yaml.safe_load((ROOT / "charts" / "finetune-operator" / "Chart.yaml").read_text())
    assert (about["version"], about["appVersion"]) == ("0.0.0-dev", "0.0.0-dev")
