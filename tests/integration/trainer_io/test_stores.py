"""The same files through every kind of store, and what happens when a store fails."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from finetune_trainer.errors import ConfigInvalid, SourceUnavailable, StorageFailed
from finetune_trainer.storage import Credentials, RetryPolicy, Store, open_store
from finetune_trainer.storage.digest import digest_bytes
from finetune_trainer.storage.store import StoredFile
from finetune_trainer.storage.transfer import download_files, upload_files
from tests.integration.trainer_io.conftest import QUICK, Bucket, Website
from tests.support.https_server import run_https_server
from tests.support.object_store import fail_first


@pytest.fixture(params=["s3", "file", "pvc"])
def store(request: pytest.FixtureRequest, bucket: Bucket, tmp_path: Path) -> Store:
    if request.param == "s3":
        return bucket.open()
    if request.param == "file":
        return open_store(f"file://{tmp_path}/store", "output", policy=QUICK)
    return open_store("pvc://claim/a/b", "output", policy=QUICK, volume_root=str(tmp_path / "volumes"))


def make_files(folder: Path, sizes: dict[str, int]) -> dict[str, bytes]:
    contents = {name: os.urandom(size) for name, size in sizes.items()}
    for name, content in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return contents


def test_files_go_there_and_back(store: Store, tmp_path: Path) -> None:
    sizes = {"config.json": 20, "sub/deep/b.bin": 300_000, "empty": 0, "odd name [1] é+&.bin": 70, "large.bin": 40 * 2**20 + 7}
    contents = make_files(tmp_path / "in", sizes)
    upload_files(store, tmp_path / "in", sizes, "x/y")
    listed = store.list_files("x/y")
    assert listed == sorted((StoredFile(f"x/y/{name}", size) for name, size in sizes.items()), key=lambda file: file.path)
    download_files(store, [StoredFile(name, size) for name, size in sizes.items()], tmp_path / "out", "x/y")
    assert {name: (tmp_path / "out" / name).read_bytes() for name in sizes} == contents
    assert not list((tmp_path / "out").rglob("*.part"))


def test_a_folder_is_not_its_namesakes_prefix(store: Store) -> None:
    store.write(b"1", "run/a")
    store.write(b"2", "run2/a")
    assert [file.path for file in store.list_files("run")] == ["run/a"]
    store.delete_folder("run")
    assert [file.path for file in store.list_files()] == ["run2/a"]


def test_what_is_not_there(store: Store) -> None:
    store.write(b"x", "there")
    assert store.list_files("absent") == []
    assert store.find("absent") is None
    assert store.read("absent", 10) is None
    store.delete(["absent"])
    store.delete_folder("absent")


def test_writing_replaces(store: Store) -> None:
    store.write(b"old, and longer", "file")
    store.write(b"new", "file")
    assert store.read("file", 100) == b"new"
    assert store.find("file") == StoredFile("file", 3)
    with pytest.raises(StorageFailed, match="at most 2 are expected"):
        store.read("file", 2)


def test_threads_may_share_a_store(store: Store) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: store.write(b"%d" % number, f"t/{number}"), range(24)))
        read = list(pool.map(lambda number: store.read(f"t/{number}", 10), range(24)))
    assert read == [b"%d" % number for number in range(24)]


def test_s3_file_uri_names_one_object(bucket: Bucket, tmp_path: Path) -> None:
    bucket.open().write(b"{}", "data.jsonl")
    store = bucket.open("data.jsonl", "dataset")
    assert store.find("") == StoredFile("", 2)
    store.download("", tmp_path / "d.jsonl")
    assert (tmp_path / "d.jsonl").read_bytes() == b"{}"


def test_listing_goes_on_after_a_thousand(bucket: Bucket) -> None:
    store = bucket.open()
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda number: store.write(b"", f"many/{number:04d}"), range(1005)))
    assert len(store.list_files("many")) == 1005


@pytest.mark.parametrize("verdict", [503, 500, "drop"])
def test_s3_failures_that_pass_are_got_over(bucket: Bucket, tmp_path: Path, verdict: int | str) -> None:
    content = make_files(tmp_path / "in", {"a": 1000})["a"]
    store = bucket.open(faulty=True)
    for method, action in (
        ("PUT", lambda: store.upload(tmp_path / "in" / "a", "a")),
        ("GET", store.list_files),
        ("GET", lambda: store.download("a", tmp_path / "out", 1000)),
        ("HEAD", lambda: store.find("a")),
        ("DELETE", lambda: store.delete(["a"])),
    ):
        bucket.faults.rule = fail_first(3, verdict, method)
        action()
    assert (tmp_path / "out").read_bytes() == content
    assert bucket.open().list_files() == []


def test_truncated_s3_download_is_tried_again_and_never_left_behind(bucket: Bucket, tmp_path: Path) -> None:
    bucket.open().write(os.urandom(200_000), "a")
    bucket.faults.rule = fail_first(2, "truncate", "GET")
    bucket.open(faulty=True).download("a", tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == bucket.open().read("a", 200_000)
    bucket.faults.rule = fail_first(99, "truncate", "GET")
    with pytest.raises(StorageFailed, match="after retries"):
        bucket.open(faulty=True).download("a", tmp_path / "b")
    assert sorted(file.name for file in tmp_path.iterdir() if file.is_file()) == ["a"]


def test_multipart_upload_with_failing_parts(bucket: Bucket, tmp_path: Path) -> None:
    content = make_files(tmp_path, {"large": 40 * 2**20})["large"]
    bucket.faults.rule = fail_first(2, 503, "PUT", "partNumber=2")
    bucket.open(faulty=True).upload(tmp_path / "large", "large")
    assert any("partNumber=" in request for request in bucket.faults.seen)
    assert bucket.open().read("large", len(content)) == content


def test_upload_that_never_succeeds_leaves_the_old_object(bucket: Bucket, tmp_path: Path) -> None:
    bucket.open().write(b"old", "large")
    make_files(tmp_path, {"large": 40 * 2**20})
    bucket.faults.rule = fail_first(999, 503, "PUT", "partNumber=3")
    with pytest.raises(StorageFailed, match=r"uploading s3://.*/large failed, after retries"):
        bucket.open(faulty=True).upload(tmp_path / "large", "large")
    assert bucket.open().read("large", 10) == b"old"


def test_s3_without_an_answer_ends_in_time(tmp_path: Path) -> None:
    policy = RetryPolicy(attempts=50, first_delay=0.05, max_delay=0.1, total=1.0, connect_timeout=1, read_timeout=1)
    store = open_store("s3://bucket/x", "dataset", Credentials("a", "b", None, "us-east-1"), "http://127.0.0.1:9", policy)
    with pytest.raises(StorageFailed, match="Check that the store answers"):
        store.download("a", tmp_path / "a")


def test_wrong_keys_and_missing_buckets_name_the_field(bucket: Bucket, tmp_path: Path) -> None:
    wrong = Credentials(access_key_id="nobody", secret_access_key="wrong", region="us-east-1")
    endpoint = bucket.server.endpoint
    with pytest.raises(SourceUnavailable, match=r"access is denied .*dataset.credentialsSecret") as caught:
        open_store(bucket.uri, "dataset", wrong, endpoint, QUICK).list_files()
    assert "wrong" not in str(caught.value)
    with pytest.raises(StorageFailed, match=r"access is denied .*output.credentialsSecret"):
        open_store(bucket.uri, "output", wrong, endpoint, QUICK).write(b"", "x")
    with pytest.raises(SourceUnavailable, match=r"s3://absent-bucket/x failed: nothing is there .*Check model.uri"):
        open_store("s3://absent-bucket/x", "model", bucket.credentials, endpoint, QUICK).list_files()
    with pytest.raises(SourceUnavailable, match="nothing is there"):
        open_store(bucket.uri, "dataset", bucket.credentials, endpoint, QUICK).download("absent", tmp_path / "absent")


def test_https_file_with_a_token(website: Website, tmp_path: Path) -> None:
    (website.root / "a.jsonl").write_bytes(b"x" * 100_000)
    store = open_store(f"{website.url}/a.jsonl", "dataset", Credentials(bearer_token=website.token), policy=QUICK)
    assert store.find("") == StoredFile("", 100_000)
    website.faults.rule = fail_first(2, "truncate", "GET")
    store.download("", tmp_path / "a", 100_000)
    assert (tmp_path / "a").stat().st_size == 100_000
    with pytest.raises(SourceUnavailable, match="access is denied") as caught:
        open_store(f"{website.url}/a.jsonl", "dataset", Credentials(bearer_token="not-it"), policy=QUICK).find("")
    assert "not-it" not in str(caught.value)
    assert open_store(f"{website.url}/b", "dataset", Credentials(bearer_token=website.token), policy=QUICK).find("") is None
    website.faults.rule = fail_first(99, 503)
    with pytest.raises(StorageFailed, match="after retries"):
        store.find("")
    with pytest.raises(ConfigInvalid, match="can't be listed"):
        store.list_files()


def test_https_of_an_unknown_authority_is_refused(website: Website, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SSL_CERT_FILE")
    with pytest.raises(SourceUnavailable, match=r"certificate.*SSL_CERT_FILE"):
        open_store(f"{website.url}/a", "dataset", policy=QUICK).find("")


def test_a_token_does_not_follow_a_redirect_to_another_server(website: Website, tmp_path: Path) -> None:
    (website.root / "a").write_bytes(b"public")
    elsewhere: list[str | None] = []
    files = tmp_path / "certificate.pem", tmp_path / "key.pem"
    with (
        run_https_server(website.root, *files, seen_authorizations=elsewhere) as target,
        run_https_server(website.root, *files, redirect=target) as url,
    ):
        store = open_store(f"{url}/a", "dataset", Credentials(bearer_token="site-secret"), policy=QUICK)
        store.download("", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == b"public"
    assert elsewhere
    assert set(elsewhere) == {None}


def test_digest_is_read_in_blocks(store: Store, tmp_path: Path) -> None:
    content = make_files(tmp_path / "in", {"large": 33 * 2**20 + 5})["large"]
    store.upload(tmp_path / "in" / "large", "large")
    assert store.digest("large", len(content)) == digest_bytes(content)
    store.write(b"", "empty")
    assert store.digest("empty", 0) == digest_bytes(b"")
