"""What does not fit on the disk is said before the minutes are spent, and in words that help."""

from pathlib import Path

import pytest

from finetune_devcluster import image_builder, progress
from finetune_devcluster.errors import DevClusterError
from finetune_devcluster.room import require_room

MORE_THAN_ANY = 1 << 60


def test_too_little_room_is_said_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DevClusterError) as caught:
        require_room(tmp_path / "not" / "there yet", MORE_THAN_ANY, "the first build of the images")
    assert str(caught.value).startswith("the first build of the images needs about 1073741824.0 GiB of disk, and ")
    assert str(tmp_path / "not" / "there yet") in str(caught.value)
    assert str(caught.value).endswith("set FINETUNE_CACHE to a folder on a larger disk")


def test_enough_room_is_no_fault(tmp_path: Path) -> None:
    require_room(tmp_path, 0, "nothing")


def test_images_that_were_built_once_need_no_such_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FINETUNE_CACHE", str(tmp_path))
    monkeypatch.setattr(image_builder, "_FIRST_BUILD", MORE_THAN_ANY)
    with pytest.raises(DevClusterError, match="the first build of the images needs about"):
        image_builder.require_room_for_images()
    (tmp_path / "images" / "layouts" / "finetune-trainer-0123456789ab").mkdir(parents=True)
    image_builder.require_room_for_images()


def test_a_disk_that_fills_up_meanwhile_is_said_at_the_end(tmp_path: Path) -> None:
    script = "echo write /some/where: No space left on device; echo more words; exit 125"
    with pytest.raises(DevClusterError) as caught:
        progress.run_shown(["sh", "-c", script], "building", tmp_path)
    assert str(caught.value).splitlines()[-1].startswith("The disk is full (")


def test_another_failure_speaks_of_no_disk(tmp_path: Path) -> None:
    with pytest.raises(DevClusterError) as caught:
        progress.run_shown(["sh", "-c", "echo no such package; exit 1"], "building", tmp_path)
    assert "disk" not in str(caught.value)
