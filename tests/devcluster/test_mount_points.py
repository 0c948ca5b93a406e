"""Mount points are made once, stay while any cluster has something mounted on them, and then go."""

import subprocess
from pathlib import Path

import pytest

from finetune_devcluster import mount_points
from tests.support.probe_pods import require_node

pytestmark = pytest.mark.node


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    require_node()
    monkeypatch.setenv("FINETUNE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "mount-point"


def test_one_that_nobody_uses_goes(folder: Path) -> None:
    with mount_points.made([str(folder)]):
        assert folder.is_dir()
    mount_points.remove_unused()
    assert not folder.exists()


def test_one_that_another_namespace_has_mounted_stays_until_it_is_free(folder: Path) -> None:
    with mount_points.made([str(folder)]):
        script = f"mount -t tmpfs tmpfs {folder} && echo mounted && read -r line"
        other = subprocess.Popen(
            ["unshare", "--mount", "--propagation=private", "sh", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert other.stdout is not None
        assert other.stdout.readline() == b"mounted\n"
    mount_points.remove_unused()
    assert folder.is_dir()
    other.communicate(b"\n", timeout=10)
    mount_points.remove_unused()
    assert not folder.exists()


def test_one_that_was_there_before_stays(folder: Path) -> None:
    folder.mkdir()
    with mount_points.made([str(folder)]):
        pass
    mount_points.remove_unused()
    assert folder.is_dir()
