"""Credentials, faults and retries, without a server."""

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from finetune_trainer.errors import ConfigInvalid, SourceUnavailable, StorageFailed
from finetune_trainer.storage import Credentials, RetryPolicy, open_store
from finetune_trainer.storage.digest import combine_digests, digest_bytes
from finetune_trainer.storage.faults import Fault, SizeMismatch, build_error, classify
from finetune_trainer.storage.retry import DeadlinePassed, call_with_retry
from finetune_trainer.storage.store import check_relative
from finetune_trainer.storage.transfer import ProgressLog, TransferAborted, format_bytes, in_parallel

SECRETS = {
    "AWS_ACCESS_KEY_ID": "AKIASECRET",
    "AWS_SECRET_ACCESS_KEY": "secret-key",
    "AWS_SESSION_TOKEN": "session",
    "HF_TOKEN": "hf_token",
    "HTTP_BEARER_TOKEN": "bearer",
}
QUICK = RetryPolicy(attempts=4, first_delay=0.001, max_delay=0.002, total=5)


def test_credentials_are_read_by_their_prefix_alone() -> None:
    environ = {f"FINETUNE_OUTPUT_{key}": f"{value}\n" for key, value in SECRETS.items()} | dict.fromkeys(SECRETS, "other")
    environ |= {"FINETUNE_OUTPUT_AWS_REGION": "eu-1", "FINETUNE_OUTPUT_AWS_ENDPOINT_URL": "https://s3", "AWS_ENDPOINT_URL": "https://other"}
    credentials = Credentials.from_environ("FINETUNE_OUTPUT_", environ)
    assert credentials == Credentials("AKIASECRET", "secret-key", "session", "eu-1", "https://s3", "hf_token", None, "bearer")


def test_without_a_secret_the_clients_own_chain_applies() -> None:
    environ = dict(SECRETS) | {"AWS_REGION": "eu-1", "AWS_ENDPOINT_URL": "https://minio"}
    assert Credentials.from_environ("FINETUNE_MODEL_", environ) == Credentials(region="eu-1", s3_endpoint_url="https://minio")


def test_half_a_key_pair_is_refused() -> None:
    with pytest.raises(ConfigInvalid, match="has AWS_ACCESS_KEY_ID but not AWS_SECRET_ACCESS_KEY; add"):
        Credentials.from_environ("X_", {"X_AWS_ACCESS_KEY_ID": "a"})
    with pytest.raises(ConfigInvalid, match="has AWS_SECRET_ACCESS_KEY but not AWS_ACCESS_KEY_ID; add"):
        Credentials.from_environ("X_", {"X_AWS_SECRET_ACCESS_KEY": "a", "X_AWS_ACCESS_KEY_ID": " "})


def test_secrets_are_not_in_a_repr() -> None:
    text = repr(Credentials.from_environ("X_", {f"X_{key}": value for key, value in SECRETS.items()}))
    assert not any(value in text for value in SECRETS.values())


class Answer(Exception):
    """An error with a status, as aiohttp's has it."""

    def __init__(self, status: int) -> None:
        super().__init__(f"HTTP {status}")
        self.status = status


def s3_error(code: str, status: int) -> Exception:
    error = Exception(code)
    error.response = {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}  # type: ignore[attr-defined]
    return error


@pytest.mark.parametrize(
    ("error", "fault"),
    [
        (FileNotFoundError("x"), Fault.MISSING),
        (PermissionError("x"), Fault.FORBIDDEN),
        (OSError(errno.ENOSPC, "x"), Fault.FULL),
        (OSError(errno.EDQUOT, "x"), Fault.FULL),
        (OSError(errno.EIO, "x"), Fault.OTHER),
        (TimeoutError(), Fault.TRANSIENT),
        (ConnectionResetError(), Fault.TRANSIENT),
        (SizeMismatch("x"), Fault.TRANSIENT),
        (ValueError("x"), Fault.OTHER),
        *[(Answer(status), Fault.TRANSIENT) for status in (408, 429, 500, 502, 503, 504)],
        *[(Answer(status), Fault.FORBIDDEN) for status in (401, 403)],
        *[(Answer(status), Fault.MISSING) for status in (404, 410)],
        *[(Answer(status), Fault.OTHER) for status in (400, 405, 416, 501)],
        (Answer(507), Fault.FULL),
        (s3_error("NoSuchKey", 404), Fault.MISSING),
        (s3_error("ExpiredToken", 400), Fault.FORBIDDEN),
        (s3_error("SlowDown", 503), Fault.TRANSIENT),
    ],
)
def test_faults_are_told_apart(error: Exception, fault: Fault) -> None:
    assert classify(error) is fault
    wrapped = RuntimeError("client's own")
    wrapped.__cause__ = error
    assert classify(wrapped) is fault


def test_innermost_cause_decides() -> None:
    # the hub's client raises "not found in the cache" where the network failed
    outer = FileNotFoundError("not in the cache")
    outer.__cause__ = ConnectionError("no route")
    assert classify(outer) is Fault.TRANSIENT


@pytest.mark.parametrize(
    ("error", "role", "kind", "words"),
    [
        (FileNotFoundError("x"), "model", SourceUnavailable, "Check model.uri"),
        (FileNotFoundError("x"), "output", StorageFailed, "Check output.uri"),
        (PermissionError("x"), "evaluation dataset", SourceUnavailable, "dataset.eval.credentialsSecret"),
        (Answer(503), "dataset", StorageFailed, "dataset.endpointUrl"),
        (OSError(errno.ENOSPC, "x"), "model", StorageFailed, "ephemeralStorage"),
        (ValueError("a\nb"), "model", StorageFailed, "ValueError: a b"),
    ],
)
def test_errors_say_what_to_check(error: Exception, role: Any, kind: type[Exception], words: str) -> None:
    built = build_error(error, "s3://b/x", role, "reading")
    assert type(built) is kind
    assert "s3://b/x" in built.message
    assert words in built.message


def test_passing_faults_are_tried_again_and_others_are_not() -> None:
    calls: list[int] = []

    def fail(error: Exception, times: int) -> int:
        calls.append(1)
        if len(calls) <= times:
            raise error
        return len(calls)

    assert call_with_retry(lambda: fail(TimeoutError(), 3), "x", QUICK, QUICK.deadline()) == 4
    for error, expected in ((TimeoutError(), 4), (PermissionError(), 1)):
        calls.clear()
        with pytest.raises(type(error)):
            call_with_retry(lambda error=error: fail(error, 99), "x", QUICK, QUICK.deadline())  # type: ignore[misc]
        assert len(calls) == expected


def test_deadline_ends_the_tries() -> None:
    policy = RetryPolicy(attempts=1000, first_delay=0.01, max_delay=0.01, total=0.1)

    def fail() -> None:
        raise TimeoutError

    with pytest.raises(TimeoutError):
        call_with_retry(fail, "x", policy, policy.deadline())
    expired = RetryPolicy(total=-1).deadline()
    with pytest.raises(DeadlinePassed):
        call_with_retry(lambda: None, "x", policy, expired)


def test_a_transfer_that_trickles_ends_at_the_deadline(tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(b"x" * 100)
    store = open_store(f"file://{tmp_path}", "dataset", policy=RetryPolicy(attempts=2, first_delay=0, total=-1))
    with pytest.raises(StorageFailed, match="not done after"):
        store.download("large", tmp_path / "copy")
    assert not (tmp_path / "copy").exists()
    assert not list(tmp_path.glob("*.part"))


@pytest.mark.parametrize("path", ["", "/etc/passwd", "a/../../b", "..", "a\\b", "a\0b"])
def test_paths_that_leave_their_folder_are_refused(path: str) -> None:
    with pytest.raises(StorageFailed, match="leaves its folder"):
        check_relative(path)


@pytest.mark.parametrize("uri", ["ftp://x/y", "hf://a/b", "s3://", "relative", "s3://b/../x", "https://user:pw@host/x"])
def test_uris_that_name_no_store_are_refused(uri: str) -> None:
    with pytest.raises(ConfigInvalid) as caught:
        open_store(uri, "model")
    assert "pw" not in str(caught.value)


def test_claims_lie_below_the_root_of_a_process_without_mounts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FINETUNE_ROOT", str(tmp_path))
    assert open_store("pvc://claim/a", "model").local_path("x") == tmp_path / "mnt/pvc/claim/a/x"
    monkeypatch.delenv("FINETUNE_ROOT")
    assert open_store("pvc://claim/a", "model").local_path("") == Path("/mnt/pvc/claim/a")


def test_first_fault_of_parallel_tasks_is_raised_and_the_others_told() -> None:
    progress = ProgressLog("x", 1)

    def fail() -> None:
        raise StorageFailed("the first")

    def trickle() -> None:
        while True:
            progress.advance(1)

    with pytest.raises(StorageFailed, match="the first"):
        in_parallel([trickle, fail, trickle], abort=progress.abort)
    with pytest.raises(TransferAborted):
        progress.advance(1)


def test_digests_of_sets() -> None:
    one = digest_bytes(b"1")
    assert combine_digests({"a": one}) == one
    assert combine_digests({"b": one, "a": one}) == combine_digests({"a": one, "b": one}) != one


def test_sizes_for_people() -> None:
    assert [format_bytes(size) for size in (5, 2048, 3 * 2**30, 2**45)] == ["5 B", "2.0 KiB", "3.0 GiB", "32.0 TiB"]


def test_full_disk_while_downloading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").write_bytes(b"x")

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(StorageFailed, match="no room is left"):
        open_store(f"file://{tmp_path}", "model").download("a", tmp_path / "b" / "a")
    assert not list((tmp_path / "b").iterdir())
