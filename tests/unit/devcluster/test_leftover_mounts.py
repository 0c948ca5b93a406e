"""What a killed build has mounted is found, so that it is unmounted and not deleted."""

from pathlib import Path

from finetune_devcluster.buildah import list_mounts

MOUNTINFO = r"""
36 35 98:0 / / rw,noatime - ext4 /dev/root rw
40 36 98:0 /cache /builds/tmp/a/mnt rw,noatime - ext4 /dev/root rw
41 40 0:5 / /builds/tmp/a/mnt/dev rw - devtmpfs udev rw
42 36 0:6 / /builds/tmp\040two/x rw - tmpfs tmpfs rw
43 36 0:6 / /builds/tmpother rw - tmpfs tmpfs rw
""".strip()


def test_mounts_below_a_folder_in_their_order() -> None:
    assert list_mounts(MOUNTINFO, Path("/builds/tmp")) == ["/builds/tmp/a/mnt", "/builds/tmp/a/mnt/dev"]


def test_names_with_spaces() -> None:
    assert list_mounts(MOUNTINFO, Path("/builds/tmp two")) == ["/builds/tmp two/x"]


def test_nothing_is_mounted() -> None:
    assert list_mounts(MOUNTINFO, Path("/elsewhere")) == []
