"""Artifacts and checkpoints in a real object store and on a volume: complete or absent, whatever happens midway."""

import errno
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from finetune_api.artifact import MANIFEST_NAME, ArtifactManifest
from finetune_trainer.artifacts import CheckpointStore, DamagedArtifact, ManifestFields, download_verified, publish, read_manifest, verify
from finetune_trainer.errors import ConfigInvalid, StorageFailed
from finetune_trainer.storage import Store, open_store
from finetune_trainer.storage.digest import digest_bytes
from tests.integration.trainer_io.conftest import QUICK, Bucket
from tests.support.object_store import fail_first


@pytest.fixture(params=["s3", "pvc"])
def store(request: pytest.FixtureRequest, bucket: Bucket, tmp_path: Path) -> Store:
    if request.param == "s3":
        return bucket.open()
    return open_store("pvc://claim/out", "output", policy=QUICK, volume_root=str(tmp_path / "volumes"))


def fields(step: int = 10, uid: str = "uid-1", kind: str = "checkpoint") -> ManifestFields:
    return ManifestFields(
        kind=kind,  # type: ignore[arg-type]
        job_uid=uid,
        job_namespace="team-a",
        job_name="job",
        attempt=1,
        step=step,
        total_steps=100,
        base_model_uri="hf://org/model",
        base_model_revision="abc",
        versions={"python": "3.11"},
        config={"model": {"uri": "hf://org/model"}},
        metrics={"loss": 1.5},
    )


def make_folder(folder: Path, **contents: bytes) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        file = folder / name.replace("__", "/")
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(content)
    return folder


def test_published_artifact_is_complete_and_verified(store: Store, tmp_path: Path) -> None:
    folder = make_folder(
        tmp_path / "adapter", config=b"{}", weights=os.urandom(300_000), sub__file=b"", **{MANIFEST_NAME: b"not mine", ".cache__x": b""}
    )
    artifact = publish(folder, store, "adapter", fields(kind="adapter"))
    content = store.read(f"adapter/{MANIFEST_NAME}", 10**6)
    assert content is not None
    assert artifact.digest == digest_bytes(content)
    assert artifact.uri == f"{store.uri}/adapter"
    assert artifact.size_bytes == 300_002
    assert artifact.base_model == "hf://org/model@abc"
    assert artifact.format == "peft"
    manifest = ArtifactManifest.model_validate_json(content)
    assert [file.path for file in manifest.files] == [".cache/x", "config", "sub/file", "weights"]
    assert verify(store, "adapter") == manifest
    assert download_verified(store, "adapter", tmp_path / "again") == manifest
    assert (tmp_path / "again/weights").read_bytes() == (folder / "weights").read_bytes()


def test_publishing_over_an_older_artifact_leaves_no_mix(store: Store, tmp_path: Path) -> None:
    publish(make_folder(tmp_path / "a", old=b"1", both=b"first"), store, "adapter", fields(uid="other", kind="adapter"))
    publish(make_folder(tmp_path / "b", new=b"2", both=b"second"), store, "adapter", fields(kind="adapter"))
    assert {file.path for file in store.list_files()} == {"adapter/new", "adapter/both", f"adapter/{MANIFEST_NAME}"}
    assert verify(store, "adapter").job_uid == "uid-1"


def test_an_upload_that_fails_midway_leaves_no_artifact(bucket: Bucket, tmp_path: Path) -> None:
    publish(make_folder(tmp_path / "a", one=b"1", two=b"2"), bucket.open(), "adapter", fields(uid="other", kind="adapter"))
    bucket.faults.rule = fail_first(999, 503, "PUT", "two")
    folder = make_folder(tmp_path / "b", one=b"11", two=b"22")
    with pytest.raises(StorageFailed):
        publish(folder, bucket.open(faulty=True), "adapter", fields(kind="adapter"))
    assert read_manifest(bucket.open(), "adapter") is None
    with pytest.raises(DamagedArtifact, match="incomplete"):
        verify(bucket.open(), "adapter")
    bucket.faults.rule = lambda _method, _path: None
    publish(folder, bucket.open(faulty=True), "adapter", fields(kind="adapter"))
    assert verify(bucket.open(), "adapter").job_uid == "uid-1"


def test_manifest_is_written_last(bucket: Bucket, tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "a", **{f"f{number}": b"x" for number in range(5)})
    publish(folder, bucket.open(faulty=True), "adapter", fields(kind="adapter"))
    writes = [request.split("?")[0] for request in bucket.faults.seen if request.startswith("PUT")]
    assert len(writes) == 6
    assert writes[-1].endswith(f"/adapter/{MANIFEST_NAME}")


def test_leftovers_of_a_killed_upload_are_cleared(bucket: Bucket, tmp_path: Path) -> None:
    store = bucket.open()
    files = store._fs  # type: ignore[attr-defined]
    name, _, folder = bucket.uri.removeprefix("s3://").partition("/")
    upload = files.call_s3("create_multipart_upload", Bucket=name, Key=f"{folder}/adapter/weights")
    files.call_s3(
        "upload_part", Bucket=name, Key=f"{folder}/adapter/weights", UploadId=upload["UploadId"], PartNumber=1, Body=b"x" * 5 * 2**20
    )
    other = files.call_s3("create_multipart_upload", Bucket=name, Key=f"{folder}/adapter2/weights")
    publish(make_folder(tmp_path / "a", weights=b"1"), store, "adapter", fields(kind="adapter"))
    left = files.call_s3("list_multipart_uploads", Bucket=name).get("Uploads") or []
    assert [entry["UploadId"] for entry in left if entry["Key"].startswith(folder)] == [other["UploadId"]]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("weights", b"other", "weights has the digest"),
        ("weights", b"longer than before", "weights has 18 bytes instead of 5"),
        ("weights", None, "weights is missing"),
        (MANIFEST_NAME, None, "incomplete"),
        (MANIFEST_NAME, b"{}", "is not a manifest"),
        (MANIFEST_NAME, b"\xff", "is not a manifest"),
    ],
)
def test_damage_is_found(store: Store, tmp_path: Path, name: str, content: bytes | None, words: str) -> None:
    publish(make_folder(tmp_path / "a", weights=b"right", config=b"{}"), store, "adapter", fields(kind="adapter"))
    if content is None:
        store.delete([f"adapter/{name}"])
    else:
        store.write(content, f"adapter/{name}")
    with pytest.raises(DamagedArtifact, match=words):
        verify(store, "adapter")
    with pytest.raises(DamagedArtifact):
        download_verified(store, "adapter", tmp_path / "again")


def test_manifest_that_names_files_outside_its_folder_is_refused(store: Store, tmp_path: Path) -> None:
    publish(make_folder(tmp_path / "a", weights=b"right"), store, "adapter", fields(kind="adapter"))
    manifest = json.loads(store.read(f"adapter/{MANIFEST_NAME}", 10**6) or b"")
    manifest["files"][0]["path"] = "../../../etc/cron.d/x"
    store.write(json.dumps(manifest).encode(), f"adapter/{MANIFEST_NAME}")
    with pytest.raises(DamagedArtifact, match="leaves its folder"):
        download_verified(store, "adapter", tmp_path / "again")


def test_checkpoints_are_listed_rotated_and_deleted(store: Store, tmp_path: Path) -> None:
    checkpoints = CheckpointStore(store, "uid-1")
    folder = make_folder(tmp_path / "c", state=b"s")
    for step in (10, 20, 30, 40):
        checkpoints.publish(folder, fields(step))
    store.delete([f"{checkpoints.locate(40)}/{MANIFEST_NAME}"])  # as a pod killed in its upload leaves it
    store.write(b"x", "checkpoints/uid-1/step-00000005/state")
    store.write(b"x", "checkpoints/uid-1/notes.txt")
    CheckpointStore(store, "uid-2").publish(folder, fields(99, "uid-2"))
    assert checkpoints.list_steps() == [30, 20, 10]
    assert checkpoints.rotate(2) == [5, 10]
    assert checkpoints.list_steps() == [30, 20]
    assert store.find("checkpoints/uid-1/step-00000040/state") is not None
    checkpoints.delete_all()
    assert {file.path.split("/")[1] for file in store.list_files("checkpoints")} == {"uid-2"}


def test_newest_whole_checkpoint_of_this_run_is_fetched(store: Store, tmp_path: Path) -> None:
    checkpoints = CheckpointStore(store, "uid-1")
    assert checkpoints.download_newest(tmp_path / "none") is None
    for step in (10, 20, 30, 40, 50):
        checkpoints.publish(make_folder(tmp_path / "c", state=b"%d" % step), fields(step, "uid-1" if step != 50 else "other"))
    store.write(b"xx", f"{checkpoints.locate(30)}/state")  # same size, other content
    store.delete([f"{checkpoints.locate(40)}/state"])
    fetched = checkpoints.download_newest(tmp_path / "resume")
    assert fetched is not None
    assert fetched.step == 20
    assert (fetched.path / "state").read_bytes() == b"20"
    assert sorted(path.name for path in (tmp_path / "resume").iterdir()) == ["step-00000020"]


def test_a_store_that_fails_is_no_reason_to_begin_anew(bucket: Bucket, tmp_path: Path) -> None:
    CheckpointStore(bucket.open(), "uid-1").publish(make_folder(tmp_path / "c", state=b"s"), fields(10))
    bucket.faults.rule = fail_first(999, 503, "GET", "state")
    with pytest.raises(StorageFailed) as caught:
        CheckpointStore(bucket.open(faulty=True), "uid-1").download_newest(tmp_path / "resume")
    assert not isinstance(caught.value, DamagedArtifact)


def test_uid_must_not_climb(store: Store) -> None:
    for uid in ("..", "a/b", ""):
        with pytest.raises(ConfigInvalid):
            CheckpointStore(store, uid)


def test_no_room_on_the_volume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store("pvc://claim/out", "output", policy=QUICK, volume_root=str(tmp_path))

    def refuse(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(StorageFailed, match="no room is left"):
        publish(make_folder(tmp_path / "a", weights=b"right"), store, "adapter", fields(kind="adapter"))
    monkeypatch.undo()
    assert read_manifest(store, "adapter") is None
    assert not list((tmp_path / "claim").rglob("*.part"))


PUBLISHER = """
    import sys
    from pathlib import Path
    from finetune_trainer.artifacts import CheckpointStore, ManifestFields
    from finetune_trainer.storage import open_store

    store = open_store("pvc://claim/out", "output", volume_root=sys.argv[1])
    checkpoints = CheckpointStore(store, "uid-1")
    print("ready", flush=True)
    for step in range(1, 10_000):
        checkpoints.publish(
            Path(sys.argv[2]),
            ManifestFields(
                kind="checkpoint", job_uid="uid-1", job_namespace="n", job_name="j", attempt=0, step=step % 3, total_steps=9,
                base_model_uri="hf://a/b", versions={}, config={},
            ),
        )
"""


def test_killed_at_any_moment_every_listed_checkpoint_is_whole_or_found_out(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "c", **{f"file{number}": os.urandom(50_000) for number in range(6)})
    for delay in (0.02, 0.05, 0.09, 0.14, 0.21):
        root = tmp_path / f"volumes-{delay}"
        publisher = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(PUBLISHER), str(root), str(folder)], stdout=subprocess.PIPE, text=True
        )
        assert publisher.stdout is not None
        assert publisher.stdout.readline() == "ready\n"
        time.sleep(delay)
        publisher.send_signal(signal.SIGKILL)
        publisher.wait(10)
        publisher.stdout.close()
        store = open_store("pvc://claim/out", "output", policy=QUICK, volume_root=str(root))
        checkpoints = CheckpointStore(store, "uid-1")
        for step in checkpoints.list_steps():
            verify(store, checkpoints.locate(step))
        checkpoints.delete_all()
        assert not [path for path in root.rglob("*") if path.is_file()]
