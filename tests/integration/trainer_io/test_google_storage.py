"""A Google Cloud Storage server keeps artifacts by the same rule as every other store."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from finetune_trainer.artifacts import DamagedArtifact, ManifestFields, download_verified, publish, verify
from finetune_trainer.errors import ConfigInvalid, StorageFailed
from finetune_trainer.storage import Credentials, RetryPolicy, Store, open_store
from tests.support.object_store import Faults, fail_first, run_faulty_proxy
from tests.support.quiet_imports import import_quietly
from tests.support.registry_server import run_gcs

pytestmark = pytest.mark.torch  # loads none of it, but the storage comes with the trainer's extra
POLICY = RetryPolicy(attempts=4, first_delay=0.01, connect_timeout=5, read_timeout=20)
FIELDS = ManifestFields(
    kind="adapter",
    job_uid="uid-1",
    job_namespace="n",
    job_name="j",
    attempt=0,
    step=1,
    total_steps=1,
    base_model_uri="gs://bucket/model",
    versions={},
    config={},
)


@pytest.fixture(scope="module", autouse=True)
def libraries() -> None:
    import_quietly("google.cloud.storage")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with run_gcs(tmp_path_factory.mktemp("gcs"), "bucket") as url:
        yield url


def open_bucket(url: str, path: str, bucket: str = "bucket") -> Store:
    return open_store(f"gs://{bucket}/{path}", "output", Credentials(), url, POLICY)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    files = tmp_path / "files"
    (files / "below").mkdir(parents=True)
    (files / "small.txt").write_text("é")
    (files / "empty").write_bytes(b"")
    (files / "below" / "large.bin").write_bytes(bytes(range(256)) * 80_000)
    return files


def test_an_artifact_comes_back_as_it_was(server: str, folder: Path, tmp_path: Path) -> None:
    store = open_bucket(server, "runs/one")
    artifact = publish(folder, store, "adapter", FIELDS)
    assert artifact.uri == "gs://bucket/runs/one/adapter"
    download_verified(store, "adapter", tmp_path / "back")
    for file in ("small.txt", "empty", "below/large.bin"):
        assert (tmp_path / "back" / file).read_bytes() == (folder / file).read_bytes()
    assert publish(folder, store, "adapter", FIELDS).size_bytes == artifact.size_bytes


def test_files_come_and_go(server: str) -> None:
    store = open_bucket(server, "files")
    assert (store.list_files(), store.find("a"), store.read("a", 10)) == ([], None, None)
    store.write(b"one", "a")
    store.write(b"two", "deep/er/b")
    assert [(file.path, file.size) for file in store.list_files()] == [("a", 3), ("deep/er/b", 3)]
    assert [file.path for file in store.list_files("deep")] == ["deep/er/b"]
    assert store.list_files("dee") == []
    store.delete(["a", "a", "never"])
    store.delete_folder("deep")
    assert store.list_files() == []


def test_a_damaged_file_is_found(server: str, folder: Path) -> None:
    store = open_bucket(server, "damaged")
    publish(folder, store, "adapter", FIELDS)
    store.write("è".encode(), "adapter/small.txt")
    with pytest.raises(DamagedArtifact, match=r"small\.txt has the digest"):
        verify(store, "adapter")


@pytest.mark.parametrize("verdict", [503, "drop"])
def test_passing_faults_are_got_over(server: str, verdict: int | str) -> None:
    faults = Faults(fail_first(2, verdict))
    with run_faulty_proxy(server, faults) as proxy:
        store = open_bucket(proxy, f"bumpy-{verdict}")
        store.write(b"one", "a")
        assert store.read("a", 10) == b"one"
    assert faults.rule("GET", "/") is None, "no fault was met"


def test_a_publisher_that_died_leaves_no_artifact(server: str, folder: Path) -> None:
    real = open_bucket(server, "died")
    begun: list[str] = []

    def refuse_the_manifest(method: str, path: str) -> int | None:
        if method == "POST":
            begun.append(path)
        return 403 if len(begun) > 3 else None  # three files, and then the manifest

    with run_faulty_proxy(server, Faults(refuse_the_manifest)) as proxy:
        store = open_bucket(proxy, "died")
        with pytest.raises(StorageFailed, match=r"manifest\.json"):
            publish(folder, store, "adapter", FIELDS)
    assert [file.path for file in real.list_files()] == ["adapter/below/large.bin", "adapter/empty", "adapter/small.txt"]
    with pytest.raises(DamagedArtifact):
        verify(real, "adapter")
    publish(folder, real, "adapter", FIELDS)
    verify(real, "adapter")


def test_a_missing_bucket_is_named(server: str) -> None:
    with pytest.raises(StorageFailed, match=r"gs://other/x"):
        open_bucket(server, "x", bucket="other").write(b"x", "y")


def test_a_key_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigInvalid, match="GOOGLE_APPLICATION_CREDENTIALS_JSON"):
        open_store("gs://bucket/x", "output", Credentials(google_key="{}"))
