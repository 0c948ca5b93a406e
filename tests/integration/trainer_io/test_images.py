"""Folders as OCI images, in a real registry: pushed whole or not at all, pulled as they were."""

import base64
import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from finetune_api.spec import ModelSpec
from finetune_trainer.errors import ConfigInvalid, SourceUnavailable, StorageFailed
from finetune_trainer.storage import Credentials, RetryPolicy
from finetune_trainer.storage.digest import digest_bytes
from finetune_trainer.storage.images import TITLE, build_layers, pull_image, push_image
from finetune_trainer.storage.models import fetch_model
from finetune_trainer.storage.registry import MANIFEST_TYPE, Registry
from tests.support.object_store import Faults, fail_first, run_faulty_proxy
from tests.support.registry_server import HTPASSWD, PASSWORD, USER, run_registry

pytestmark = pytest.mark.torch  # loads none of it, but the storage comes with the trainer's extra
POLICY = RetryPolicy(attempts=3, first_delay=0.01, connect_timeout=5, read_timeout=20)
URI = "oci://registry.example.com/team-a/bot:v1"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with run_registry(tmp_path_factory.mktemp("registry"), HTPASSWD) as url:
        yield url


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    files = tmp_path / "files"
    (files / "below").mkdir(parents=True)
    (files / "config.json").write_text("{}")
    (files / "below" / "notes.txt").write_text("é\n")
    (files / "model.safetensors").write_bytes(bytes(range(256)) * 12_000)
    return files


def open_registry(url: str, uri: str = URI, password: str = PASSWORD) -> Registry:
    return Registry(uri, "output", Credentials(oci_username=USER, oci_password=password), url, POLICY)


def read_all(folder: Path) -> dict[str, bytes]:
    return {
        file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file() and file.name != ".complete"
    }


def test_what_is_pulled_is_what_was_pushed(server: str, folder: Path, tmp_path: Path) -> None:
    digest = push_image(folder, open_registry(server), {"a": "b"})
    assert pull_image(open_registry(server), tmp_path / "pulled") == digest
    assert read_all(tmp_path / "pulled") == read_all(folder)


def test_it_is_a_plain_image_for_every_architecture(server: str, folder: Path) -> None:
    """What a container runtime needs to mount it: image media types, and the digests of the unpacked layers."""
    registry = open_registry(server)
    index, _ = registry.get_manifest(push_image(folder, registry, {"a": "b"}))
    assert index["mediaType"] == "application/vnd.oci.image.index.v1+json"
    assert [entry["platform"] for entry in index["manifests"]] == [
        {"architecture": "amd64", "os": "linux"},
        {"architecture": "arm64", "os": "linux"},
    ]
    for entry in index["manifests"]:
        manifest, _ = registry.get_manifest(entry["digest"])
        assert {layer["mediaType"] for layer in manifest["layers"]} == {"application/vnd.oci.image.layer.v1.tar"}
        assert len(manifest["layers"]) == 2, "small files share a layer"


def test_the_same_files_have_the_same_digest_and_are_sent_once(server: str, folder: Path) -> None:
    first = push_image(folder, open_registry(server), {})
    faults = Faults()
    with run_faulty_proxy(server, faults) as proxy:
        (folder / "config.json").touch()
        assert push_image(folder, open_registry(proxy), {}) == first
    assert not [call for call in faults.seen if call.startswith("POST")], "a blob was sent again"


def test_a_push_that_died_leaves_the_tag_as_it_was(server: str, folder: Path) -> None:
    uri = "oci://registry.example.com/team-a/died:v1"
    before = push_image(folder, open_registry(server, uri), {})
    (folder / "config.json").write_text('{"new": true}')
    faults = Faults(fail_first(99, 403, "PUT", "manifests/v1"))
    with run_faulty_proxy(server, faults) as proxy, pytest.raises(StorageFailed, match="access is denied"):
        push_image(folder, open_registry(proxy, uri), {})
    assert open_registry(server, uri).get_manifest("v1")[1] == before
    after = push_image(folder, open_registry(server, uri), {})
    assert open_registry(server, uri).get_manifest("v1")[1] == after != before


def test_passing_faults_are_got_over(server: str, folder: Path, tmp_path: Path) -> None:
    uri = "oci://registry.example.com/team-a/bumpy:v1"
    faults = Faults(fail_first(2, 503))
    with run_faulty_proxy(server, faults) as proxy:
        digest = push_image(folder, open_registry(proxy, uri), {})
        faults.rule = fail_first(1, "truncate", "GET", "blobs/")
        assert pull_image(open_registry(proxy, uri), tmp_path / "pulled") == digest
    assert read_all(tmp_path / "pulled") == read_all(folder)


@pytest.mark.parametrize("password", ["wrong", ""])
def test_wrong_credentials_are_named_and_not_shown(server: str, folder: Path, password: str) -> None:
    with pytest.raises(StorageFailed, match="access is denied") as refused:
        push_image(folder, open_registry(server, password=password), {})
    assert "credentialsSecret" in refused.value.message
    assert PASSWORD not in refused.value.message


def test_a_docker_configuration_is_understood(server: str, folder: Path) -> None:
    auth = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
    config = json.dumps({"auths": {"https://registry.example.com/v1/": {"auth": auth}, "other.example.com": {"auth": "eDp5"}}})
    registry = Registry(URI, "output", Credentials(docker_config=config), server, POLICY)
    assert push_image(folder, registry, {}).startswith("sha256:")
    with pytest.raises(ConfigInvalid, match="dockerconfigjson"):
        Registry(URI, "output", Credentials(docker_config="{"), server, POLICY)


def test_a_model_is_read_from_a_registry(server: str, folder: Path, tmp_path: Path) -> None:
    uri = "oci://registry.example.com/models/base:v1"
    (folder / "tokenizer.json").write_text("{}")
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    digest = push_image(folder, open_registry(server, uri), {})
    for name in (uri, f"oci://registry.example.com/models/base@{digest}"):
        spec = ModelSpec(uri=name, endpoint_url=server)
        fetched = fetch_model(spec, Credentials(oci_username=USER, oci_password=PASSWORD), tmp_path / "model", POLICY)
        assert (fetched.revision, fetched.license) == (digest, "apache-2.0")
        assert (fetched.path / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()
    missing = ModelSpec(uri="oci://registry.example.com/models/none:v1", endpoint_url=server)
    with pytest.raises(SourceUnavailable, match="nothing is there"):
        fetch_model(missing, Credentials(oci_username=USER, oci_password=PASSWORD), tmp_path / "none", POLICY)


def push_layers(server: str, uri: str, *layers: tuple[dict[str, Any], bytes]) -> Registry:
    """Push an artifact of layers made by hand."""
    registry = open_registry(server, uri)
    described = []
    for extra, content in (({}, b"{}"), *layers):
        digest = digest_bytes(content)
        registry.upload_blob(digest, len(content), lambda content=content: iter([content]))  # type: ignore[misc]
        described.append({"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": digest, "size": len(content), **extra})
    manifest = {"schemaVersion": 2, "mediaType": MANIFEST_TYPE, "config": described[0], "layers": described[1:]}
    registry.put_manifest(registry.name.reference, json.dumps(manifest).encode(), MANIFEST_TYPE)
    return registry


def test_files_pushed_by_name_are_read(server: str, tmp_path: Path) -> None:
    plain = {"mediaType": "application/octet-stream", "annotations": {TITLE: "rows.jsonl"}}
    registry = push_layers(server, "oci://registry.example.com/data/rows:v1", (plain, b'{"text": "a"}\n'))
    pull_image(registry, tmp_path / "rows")
    assert (tmp_path / "rows" / "rows.jsonl").read_text() == '{"text": "a"}\n'


@pytest.mark.parametrize(
    ("name", "kind", "words"),
    [
        ("../outside", tarfile.REGTYPE, "leaves its folder"),
        ("a/../../outside", tarfile.REGTYPE, "leaves its folder"),
        ("link", tarfile.SYMTYPE, "no plain file"),
        ("hard", tarfile.LNKTYPE, "no plain file"),
        ("fifo", tarfile.FIFOTYPE, "no plain file"),
        (".wh.gone", tarfile.REGTYPE, "no plain file"),
    ],
)
def test_nothing_of_an_image_leaves_its_folder(server: str, tmp_path: Path, name: str, kind: bytes, words: str) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        entry = tarfile.TarInfo(name)
        entry.type, entry.linkname = kind, "/etc/passwd"
        archive.addfile(entry, io.BytesIO())
    registry = push_layers(server, f"oci://registry.example.com/evil/image:{kind.decode()}{len(name)}", ({}, buffer.getvalue()))
    with pytest.raises((ConfigInvalid, StorageFailed), match=words):
        pull_image(registry, tmp_path / "in" / "here")
    assert not [path for path in tmp_path.rglob("*") if path.name in ("outside", "link", "hard", "fifo")]


def test_many_large_files_stay_below_the_runtimes_limit_of_layers(tmp_path: Path) -> None:
    for number in range(130):
        (tmp_path / f"shard-{number:03}").write_bytes(b"x" * (2**20 + 1))
    layers = build_layers(tmp_path)
    assert len(layers) <= 100
    assert sorted(path for layer in layers for path in layer.paths) == sorted(file.name for file in tmp_path.iterdir())
