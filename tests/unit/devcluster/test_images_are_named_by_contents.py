"""An image's name says what it is made of: the same tree is not built again, another one is."""

from collections.abc import Callable
from pathlib import Path

import pytest

from finetune_devcluster import image_builder
from finetune_devcluster.errors import DevClusterError

BASE = "localhost/base:1"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in image_builder._SOURCES:
        path = tmp_path / name
        if path.suffix or name == "Dockerfile":
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(name)
        else:
            path.mkdir(parents=True)
            (path / "module.py").write_text(name)
    return tmp_path


def change_source(tree: Path) -> None:
    (tree / "trainer/finetune_trainer/module.py").write_text("other")


def add_source(tree: Path) -> None:
    (tree / "operator/finetune_operator/new.py").write_text("")


def rename_source(tree: Path) -> None:
    (tree / "api/finetune_api/module.py").rename(tree / "api/finetune_api/renamed.py")


def change_lock(tree: Path) -> None:
    (tree / "uv.lock").write_text("other")


def change_recipe(tree: Path) -> None:
    (tree / "Dockerfile").write_text("FROM scratch")


@pytest.mark.parametrize("change", [change_source, add_source, rename_source, change_lock, change_recipe])
def test_a_change_gives_another_name(tree: Path, change: Callable[[Path], None]) -> None:
    before = image_builder.compute_key(tree, "trainer", BASE)
    assert image_builder.compute_key(tree, "trainer", BASE) == before
    change(tree)
    assert image_builder.compute_key(tree, "trainer", BASE) != before


def test_what_is_not_in_the_image_is_not_in_the_name(tree: Path) -> None:
    before = image_builder.compute_key(tree, "operator", BASE)
    cache = tree / "operator/finetune_operator/__pycache__"
    cache.mkdir()
    (cache / "module.cpython-311.pyc").write_bytes(b"\0")
    (tree / "tests").mkdir()
    (tree / "tests" / "test_x.py").write_text("")
    assert image_builder.compute_key(tree, "operator", BASE) == before


def test_targets_and_bases_are_told_apart(tree: Path) -> None:
    keys = {image_builder.compute_key(tree, target, base) for target in image_builder.TARGETS for base in (BASE, "python:3.12-slim")}
    assert len(keys) == 4


def test_the_name_covers_what_the_dockerfile_copies() -> None:
    root = image_builder.REPOSITORY_ROOT
    copied = {
        word
        for line in (root / "Dockerfile").read_text().splitlines()
        if line.startswith("COPY ") and "--from" not in line
        for word in line.split()[1:-1]
    }
    assert copied <= set(image_builder._SOURCES)


def test_an_unknown_target_is_refused() -> None:
    with pytest.raises(DevClusterError, match="no such image: cli"):
        image_builder.ensure_images(["cli"])


def test_indexes_reach_the_build_as_a_shell_reads_them() -> None:
    environ = {"UV_DEFAULT_INDEX": "https://user:p'w$x@index.test/simple", "PATH": "/bin", "HTTPS_PROXY": ""}
    assert image_builder.build_environment_file(environ) == "UV_DEFAULT_INDEX='https://user:p'\"'\"'w$x@index.test/simple'\n"
