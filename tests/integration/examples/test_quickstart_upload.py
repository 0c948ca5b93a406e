"""The quick start's files reach a real S3 server whole, and are sent again only where they differ."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from finetune_devcluster import Cluster

QUICKSTART = Path(__file__).resolve().parents[3] / "examples" / "quickstart"
sys.path.insert(0, str(QUICKSTART))
pytestmark = [pytest.mark.cluster, pytest.mark.torch]  # s3fs comes with the trainer's extra


@pytest.fixture(scope="module")
def object_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    root = tmp_path_factory.mktemp("object-store")
    with Cluster.up(f"up-{os.getpid()}", state_root=root, ephemeral=True, object_store=True) as cluster:
        yield cluster.object_store


@pytest.fixture
def store(object_store: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    pytest.importorskip("s3fs", reason="needs the trainer's extra")
    import upload

    monkeypatch.setenv("AWS_ACCESS_KEY_ID", object_store.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", object_store.secret_key)
    return upload.connect(object_store.endpoint)


@pytest.fixture
def sources(tmp_path: Path) -> tuple[Path, Path]:
    import dataset

    model, data = tmp_path / "model", tmp_path / "data"
    model.mkdir()
    data.mkdir()
    (model / "config.json").write_text("{}")
    (model / "model.safetensors").write_bytes(os.urandom(300_000))
    (data / dataset.TRAIN_FILE).write_text("{}\n")
    (data / dataset.HELD_OUT_FILE).write_text("{}\n")
    return model, data


def test_what_is_there_is_skipped_and_what_differs_is_sent(store: Any, sources: tuple[Path, Path]) -> None:
    import upload

    model, data = sources
    bucket = "made-by-upload"
    assert upload.upload(store, bucket, model, data) == (4, 0)
    for path, key in upload.build_uploads(model, data):
        assert store.cat_file(f"{bucket}/{key}") == path.read_bytes()
    assert upload.upload(store, bucket, model, data) == (0, 4)
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[::-1])  # the same size, other content
    store.rm_file(f"{bucket}/{upload.MODEL_PREFIX}/config.json")
    assert upload.upload(store, bucket, model, data) == (2, 2)
    assert store.cat_file(f"{bucket}/{upload.MODEL_PREFIX}/model.safetensors") == weights.read_bytes()
    assert upload.upload(store, bucket, model, data) == (0, 4)


def test_a_missing_model_is_said_before_anything_is_sent(store: Any, sources: tuple[Path, Path], tmp_path: Path) -> None:
    import upload

    with pytest.raises(FileNotFoundError, match="holds no model"):
        upload.upload(store, "never-made", tmp_path / "nothing", sources[1])
    assert not store.exists("never-made")
