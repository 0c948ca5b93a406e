"""The demo's check of an artifact finds every kind of damage, on a real S3 server."""

import hashlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.object_store import run_object_store

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "examples" / "quickstart"))
pytestmark = [pytest.mark.cluster, pytest.mark.torch]  # s3fs comes with the trainer's extra

ROOT = "bucket/adapters/run/adapter"
CONTENTS = {"adapter_config.json": b"{}", "adapter_model.safetensors": bytes(range(256)) * 40}


def describe(content: bytes) -> dict[str, Any]:
    return {"sizeBytes": len(content), "digest": f"sha256:{hashlib.sha256(content).hexdigest()}"}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    pytest.importorskip("s3fs", reason="needs the trainer's extra")
    from demo_target import Store

    with run_object_store(tmp_path_factory.mktemp("store")) as found:
        yield Store(found.endpoint, found.endpoint, found.bucket, found.access_key, found.secret_key)


@pytest.fixture
def files(store: Any) -> Any:
    import demo_verify

    return demo_verify._connect(store)


@pytest.fixture
def artifact(files: Any) -> dict[str, Any]:
    manifest = json.dumps({"files": [{"path": name, **describe(content)} for name, content in CONTENTS.items()]}).encode()
    for name, content in {**CONTENTS, "manifest.json": manifest}.items():
        files.pipe_file(f"{ROOT}/{name}", content)
    size = sum(map(len, CONTENTS.values()))
    return {"uri": f"s3://{ROOT}", "digest": describe(manifest)["digest"], "sizeBytes": size}


def test_a_whole_artifact_is_fetched(store: Any, artifact: dict[str, Any], tmp_path: Path) -> None:
    from demo_verify import fetch_artifact

    fetch_artifact(store, artifact, tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == CONTENTS


def change_a_byte(files: Any) -> None:
    files.pipe_file(f"{ROOT}/adapter_model.safetensors", b"\1" + CONTENTS["adapter_model.safetensors"][1:])


def cut_a_file(files: Any) -> None:
    files.pipe_file(f"{ROOT}/adapter_model.safetensors", CONTENTS["adapter_model.safetensors"][:-1])


def add_a_file(files: Any) -> None:
    files.pipe_file(f"{ROOT}/pickle.bin", b"x")


def remove_a_file(files: Any) -> None:
    files.rm_file(f"{ROOT}/adapter_config.json")


def change_the_manifest(files: Any) -> None:
    files.pipe_file(f"{ROOT}/manifest.json", files.cat_file(f"{ROOT}/manifest.json") + b"\n")


@pytest.mark.parametrize(
    ("damage", "fault"),
    [
        (change_a_byte, "adapter_model.safetensors: "),
        (cut_a_file, "adapter_model.safetensors: "),
        (add_a_file, "pickle.bin"),
        (remove_a_file, "adapter_config.json"),
        (change_the_manifest, "manifest.json has digest"),
    ],
)
def test_damage_is_found(
    store: Any, files: Any, artifact: dict[str, Any], tmp_path: Path, damage: Callable[[Any], None], fault: str
) -> None:
    from demo_steps import DemoFailed
    from demo_verify import fetch_artifact, remove_outputs

    damage(files)
    with pytest.raises(DemoFailed, match=fault):
        fetch_artifact(store, artifact, tmp_path)
    remove_outputs(store, "bucket/adapters/run")
    assert not files.exists(ROOT)


def test_a_wrong_size_in_status_is_found(store: Any, artifact: dict[str, Any], tmp_path: Path) -> None:
    from demo_steps import DemoFailed
    from demo_verify import fetch_artifact

    with pytest.raises(DemoFailed, match=r"status says 1$"):
        fetch_artifact(store, {**artifact, "sizeBytes": 1}, tmp_path)


@pytest.mark.parametrize(
    ("reference", "parts"),
    [
        ("localhost/a:1", ("localhost/a", "1", "")),
        ("host:5000/a/b:v1.2", ("host:5000/a/b", "v1.2", "")),
        (f"host:5000/a@sha256:{'0' * 64}", ("host:5000/a", "", f"sha256:{'0' * 64}")),
    ],
)
def test_image_names_are_split(reference: str, parts: tuple[str, str, str]) -> None:
    from demo_target import split_image

    assert split_image(reference) == parts


@pytest.mark.parametrize("reference", ["a", "host:5000/a"])
def test_an_image_without_a_tag_is_refused(reference: str) -> None:
    from demo_steps import DemoFailed
    from demo_target import split_image

    with pytest.raises(DemoFailed, match="has no tag"):
        split_image(reference)
