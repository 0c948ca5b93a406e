"""Copies on a hub, by the hub's own client: one commit, whole or not at all."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from finetune_api.artifact import Artifact, ArtifactManifest, ManifestFile
from finetune_api.spec import PushSpec
from finetune_trainer.errors import StorageFailed
from finetune_trainer.exporting.pushing import push_artifact
from finetune_trainer.storage import Credentials, RetryPolicy
from tests.support.hub_upload import UploadHub, run_upload_hub
from tests.support.object_store import fail_first

pytestmark = [
    pytest.mark.torch,  # loads none of it, but the storage comes with the trainer's extra
    pytest.mark.filterwarnings("ignore:Use 'content:DeprecationWarning"),  # the hub's own client
]
POLICY = RetryPolicy(attempts=3, first_delay=0.01, connect_timeout=5, read_timeout=20)
NOW = datetime(2026, 1, 2, tzinfo=UTC)
DIGEST = f"sha256:{'a' * 64}"
ARTIFACT = Artifact(
    name="adapter", format="peft", uri="s3://b/adapter", digest=DIGEST, size_bytes=1, base_model="hf://o/m", created_time=NOW
)
MANIFEST = ArtifactManifest(
    kind="adapter",
    format="peft",
    files=[ManifestFile(path="a", size_bytes=1, digest=DIGEST)],
    job_uid="uid-1",
    job_namespace="team-a",
    job_name="bot",
    attempt=0,
    step=7,
    total_steps=7,
    base_model_uri="hf://o/m",
    versions={},
    config={},
    created_time=NOW,
)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[UploadHub]:
    """A hub that takes large files by Git LFS; the other way, Xet, has a server that there is none of to test against."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    with run_upload_hub(UploadHub("hub-token")) as running:
        yield running


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "README.md").write_text("# bot\n")
    (tmp_path / "adapter_config.json").write_text("{}")
    (tmp_path / "manifest.json").write_text("{}")
    (tmp_path / "adapter_model.safetensors").write_bytes(b"weights" * 1000)
    return tmp_path


def push(hub: UploadHub, folder: Path, token: str = "hub-token") -> Artifact:  # noqa: S107
    spec = PushSpec(uri="hf://team-a/bot", endpoint_url=hub.url)
    return push_artifact(spec, folder, ARTIFACT, MANIFEST, Credentials(hub_token=token), POLICY)


def test_all_files_are_there_in_one_commit_of_a_private_repository(hub: UploadHub, folder: Path) -> None:
    artifact = push(hub, folder)
    assert hub.repositories["team-a/bot"] == {file.name: file.read_bytes() for file in folder.iterdir()}
    assert hub.private["team-a/bot"]
    assert hub.commits == ["adapter of FineTuneJob team-a/bot, 7 steps"]
    assert artifact.uri == f"hf://team-a/bot@{hub.head}"
    assert artifact.digest == DIGEST


def test_files_of_an_older_push_go(hub: UploadHub, folder: Path) -> None:
    push(hub, folder)
    (folder / "README.md").rename(folder / "CARD.md")
    push(hub, folder)
    assert sorted(hub.repositories["team-a/bot"]) == sorted(file.name for file in folder.iterdir())


def test_a_push_that_failed_shows_nothing_and_the_next_one_all(hub: UploadHub, folder: Path) -> None:
    hub.faults.rule = fail_first(99, 403, "POST", "/commit/")
    with pytest.raises(StorageFailed, match="access is denied"):
        push(hub, folder)
    assert hub.repositories["team-a/bot"] == {}
    hub.faults.rule = fail_first(1, 503, "POST", "/commit/")
    push(hub, folder)
    assert len(hub.repositories["team-a/bot"]) == 4


def test_a_wrong_token_is_named_and_not_shown(hub: UploadHub, folder: Path) -> None:
    with pytest.raises(StorageFailed, match=r"credentialsSecret") as refused:
        push(hub, folder, "secret-token")
    assert "secret-token" not in refused.value.message
