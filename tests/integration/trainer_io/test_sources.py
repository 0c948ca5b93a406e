"""Base models and datasets from every kind of source."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from finetune_api.spec import DatasetSpec, EvalDatasetSpec, ModelSpec
from finetune_trainer.data import load_examples
from finetune_trainer.data.fetch import fetch_dataset
from finetune_trainer.errors import ConfigInvalid, DataInvalid, SourceUnavailable, StorageFailed
from finetune_trainer.storage import Credentials
from finetune_trainer.storage.digest import digest_bytes
from finetune_trainer.storage.models import fetch_model
from tests.integration.trainer_io.conftest import QUICK, Bucket, Website
from tests.support.hub_server import Hub, Repository
from tests.support.object_store import fail_first

MODEL = {
    "config.json": b'{"model_type": "llama"}',
    "tokenizer.json": b"{}",
    "tokenizer_config.json": b"{}",
    "model.safetensors": b"weights" * 1000,
    "README.md": b"---\nlicense: apache-2.0\n---\n",
    "LICENSE": b"words",
}
SHARDED = {
    "config.json": b"{}",
    "tokenizer.json": b"{}",
    "chat_template.jinja": b"{{ messages }}",
    "model.safetensors.index.json": json.dumps({"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}).encode(),
    "model-1.safetensors": b"1" * 100,
    "model-2.safetensors": b"2" * 100,
}
UNWANTED = {
    "samples.txt": b"x",
    "modeling.py": b"raise SystemExit",
    "pytorch_model.bin": b"pickle",
    "consolidated.safetensors": b"again",
    "onnx/model.safetensors": b"x",
    "training_args.bin": b"pickle",
}
ROWS = [{"prompt": f"p{number}", "completion": f"c{number}"} for number in range(40)]
JSONL = "\n".join(json.dumps(row) for row in ROWS).encode()


def model_digest(files: dict[str, bytes]) -> str:
    names = sorted(name for name in files if name == "config.json" or name.endswith(".safetensors"))
    return digest_bytes("".join(f"{hashlib.sha256(files[name]).hexdigest()}  {name}\n" for name in names).encode())


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file() and ".cache" not in path.parts)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def put(folder: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


@pytest.mark.parametrize("files", [MODEL, SHARDED], ids=["one-file", "sharded"])
def test_model_from_s3(bucket: Bucket, tmp_path: Path, files: dict[str, bytes]) -> None:
    store = bucket.open()
    for name, content in {**files, **UNWANTED}.items():
        store.write(content, f"model/{name}")
    model = ModelSpec(uri=f"{bucket.uri}/model", endpoint_url=bucket.server.endpoint)
    fetched = fetch_model(model, bucket.credentials, tmp_path / "model", QUICK)
    assert contents(fetched.path) == files
    assert fetched.revision is None
    assert fetched.digest == model_digest(files)


@pytest.mark.parametrize("files", [MODEL, SHARDED], ids=["one-file", "sharded"])
def test_model_from_https(website: Website, tmp_path: Path, files: dict[str, bytes]) -> None:
    put(website.root / "m", {**files, **UNWANTED})
    fetched = fetch_model(ModelSpec(uri=f"{website.url}/m"), Credentials(bearer_token=website.token), tmp_path / "model", QUICK)
    assert contents(fetched.path) == files
    assert fetched.digest == model_digest(files)


def test_model_on_a_volume_is_used_in_place(tmp_path: Path) -> None:
    put(tmp_path / "claim/m", MODEL)
    fetched = fetch_model(ModelSpec(uri="pvc://claim/m"), Credentials(), tmp_path / "none", QUICK, str(tmp_path))
    assert fetched.path == tmp_path / "claim/m"
    assert fetched.digest == model_digest(MODEL)
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("files", [MODEL, SHARDED], ids=["one-file", "sharded"])
@pytest.mark.parametrize("revision", [None, "v1", "0123456789abcdef0123456789abcdef01234567"])
def test_model_from_the_hub(hub: Hub, tmp_path: Path, files: dict[str, bytes], revision: str | None) -> None:
    hub.repositories["models/org/name"] = Repository({**files, **UNWANTED}, names=("main", "v1"), token="hub-token")
    model = ModelSpec(uri="hf://org/name", revision=revision, endpoint_url=hub.url)
    fetched = fetch_model(model, Credentials(hub_token="hub-token"), tmp_path / "model", QUICK)
    assert contents(fetched.path) == files
    assert fetched.revision == "0123456789abcdef0123456789abcdef01234567"
    assert fetched.digest == model_digest(files)
    assert not [request for request in hub.faults.seen if ".py" in request or ".bin" in request]
    asked = len(hub.faults.seen)
    assert fetch_model(model, Credentials(hub_token="hub-token"), tmp_path / "model", QUICK) == fetched
    assert not [request for request in hub.faults.seen[asked:] if request.startswith("GET") and request.endswith(".safetensors")]


def test_hub_endpoint_may_come_from_the_secret(hub: Hub, tmp_path: Path) -> None:
    hub.repositories["models/org/name"] = Repository(MODEL)
    credentials = Credentials.from_environ("FINETUNE_MODEL_", {"FINETUNE_MODEL_HF_ENDPOINT": hub.url})
    assert fetch_model(ModelSpec(uri="hf://org/name"), credentials, tmp_path / "model", QUICK).revision


@pytest.mark.parametrize(
    ("uri", "revision", "token", "words"),
    [
        ("hf://org/absent", None, "hub-token", "nothing is there"),
        ("hf://org/name", "v9", "hub-token", "nothing is there .* and the revision"),
        ("hf://org/name", None, "other-token", "access is denied .*model.credentialsSecret"),
    ],
)
def test_hub_refusals_say_what_to_check(hub: Hub, tmp_path: Path, uri: str, revision: str | None, token: str, words: str) -> None:
    hub.repositories["models/org/name"] = Repository(MODEL, token="hub-token")
    with pytest.raises(SourceUnavailable, match=words) as caught:
        fetch_model(ModelSpec(uri=uri, revision=revision, endpoint_url=hub.url), Credentials(hub_token=token), tmp_path, QUICK)
    assert token not in str(caught.value)


@pytest.mark.parametrize("verdict", [503, "truncate"])
def test_hub_failures_that_pass_are_got_over(hub: Hub, tmp_path: Path, verdict: int | str) -> None:
    hub.repositories["models/org/name"] = Repository(MODEL)
    hub.faults.rule = fail_first(2, verdict, "GET", "safetensors")
    fetched = fetch_model(ModelSpec(uri="hf://org/name", endpoint_url=hub.url), Credentials(), tmp_path / "model", QUICK)
    assert contents(fetched.path) == MODEL


def test_hub_that_is_down_is_the_stores_failure(tmp_path: Path) -> None:
    with pytest.raises(StorageFailed, match="after retries"):
        fetch_model(ModelSpec(uri="hf://org/name", endpoint_url="http://127.0.0.1:9"), Credentials(hub_token="t"), tmp_path, QUICK)


@pytest.mark.parametrize(
    ("files", "error", "words"),
    [
        ({}, SourceUnavailable, "is empty or doesn't exist"),
        ({"config.json": b"{}", "tokenizer.json": b"{}", "pytorch_model.bin": b"x"}, ConfigInvalid, "pickled weights only"),
        ({"adapter_config.json": b"{}", "adapter_model.safetensors": b"x"}, ConfigInvalid, "holds a PEFT adapter"),
        ({name: MODEL[name] for name in ("config.json", "model.safetensors")}, ConfigInvalid, "has no tokenizer"),
        ({name: MODEL[name] for name in ("config.json", "tokenizer.json")}, ConfigInvalid, r"no \*.safetensors"),
        ({name: SHARDED[name] for name in SHARDED if name != "model-2.safetensors"}, SourceUnavailable, "names model-2.safetensors"),
        ({**SHARDED, "model.safetensors.index.json": b"[]"}, ConfigInvalid, "is not an index"),
        ({**SHARDED, "model.safetensors.index.json": b'{"weight_map": {"a": "../x.safetensors"}}'}, ConfigInvalid, "same folder"),
    ],
)
def test_folders_that_are_no_model(bucket: Bucket, tmp_path: Path, files: dict[str, bytes], error: type[Exception], words: str) -> None:
    for name, content in files.items():
        bucket.open().write(content, f"m/{name}")
    put(tmp_path / "claim/m", files)
    model = ModelSpec(uri=f"{bucket.uri}/m", endpoint_url=bucket.server.endpoint)
    with pytest.raises(error, match=words):
        fetch_model(model, bucket.credentials, tmp_path / "model", QUICK)
    with pytest.raises(error, match=words):
        fetch_model(ModelSpec(uri="pvc://claim/m"), Credentials(), tmp_path / "model", QUICK, str(tmp_path))


def test_disk_too_small_is_said_before_the_first_byte(bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import shutil

    for name, content in MODEL.items():
        bucket.open().write(content, f"m/{name}")
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage._replace(free=64 * 2**20))
    model = ModelSpec(uri=f"{bucket.uri}/m", endpoint_url=bucket.server.endpoint)
    with pytest.raises(StorageFailed, match=r"needs .* GiB, but .* GiB left; raise resources.ephemeralStorage"):
        fetch_model(model, bucket.credentials, tmp_path / "model", QUICK)
    assert not list((tmp_path / "model").iterdir())


@pytest.mark.parametrize("source", ["s3", "pvc", "https"])
def test_dataset_file(bucket: Bucket, website: Website, tmp_path: Path, source: str) -> None:
    bucket.open().write(JSONL, "d/data.jsonl")
    put(website.root, {"d/data.jsonl": JSONL})
    put(tmp_path / "claim", {"d/data.jsonl": JSONL})
    uri = {"s3": f"{bucket.uri}/d/data.jsonl", "pvc": "pvc://claim/d/data.jsonl", "https": f"{website.url}/d/data.jsonl"}[source]
    environ = {"FINETUNE_DATASET_HTTP_BEARER_TOKEN": website.token} if source == "https" else bucket.environ("FINETUNE_DATASET_")
    dataset = DatasetSpec(uri=uri, endpoint_url=bucket.server.endpoint if source == "s3" else None)
    examples = load_examples(dataset, 42, tmp_path / "work", environ, policy=QUICK, volume_root=str(tmp_path))
    assert examples.format == "prompt-completion"
    assert examples.digest == digest_bytes(JSONL)
    assert (len(examples.train), len(examples.eval)) == (38, 2)
    assert sorted(map(str, [*examples.train, *examples.eval])) == sorted(map(str, ROWS))


def test_dataset_folder_and_evaluation_data(bucket: Bucket, tmp_path: Path) -> None:
    lines = JSONL.split(b"\n")
    store = bucket.open()
    store.write(b"\n".join(lines[:20]), "train/a.jsonl")
    store.write(b"\n".join(lines[20:]), "train/sub/b.jsonl")
    store.write(b"# notes", "train/README.md")
    store.write(b'{"text": "held out"}', "eval.jsonl")
    dataset = DatasetSpec(
        uri=f"{bucket.uri}/train",
        endpoint_url=bucket.server.endpoint,
        eval=EvalDatasetSpec(uri=f"{bucket.uri}/eval.jsonl", endpoint_url=bucket.server.endpoint),
    )
    examples = load_examples(dataset, 42, tmp_path, bucket.environ("FINETUNE_DATASET_") | bucket.environ("FINETUNE_EVAL_"), policy=QUICK)
    assert examples.train[:] == ROWS
    assert examples.eval[:] == [{"text": "held out"}]
    assert (examples.format, examples.eval_parts[0].format) == ("prompt-completion", "text")


@pytest.mark.parametrize(
    ("path", "error", "words"),
    [
        ("absent.jsonl", SourceUnavailable, "check dataset.uri for typing errors"),
        ("absent", SourceUnavailable, "is empty or doesn't exist"),
        ("notes", DataInvalid, "only: notes/README.md"),
    ],
)
def test_dataset_that_is_not_there(bucket: Bucket, tmp_path: Path, path: str, error: type[Exception], words: str) -> None:
    bucket.open().write(b"x", "notes/README.md")
    put(tmp_path / "claim", {"notes/README.md": b"x"})
    dataset = DatasetSpec(uri=f"{bucket.uri}/{path}", endpoint_url=bucket.server.endpoint)
    with pytest.raises(error, match=words.replace("notes/README", "README")):
        fetch_dataset(dataset, bucket.credentials, tmp_path / "work", QUICK)
    with pytest.raises(error, match=words.replace("notes/README", "README")):
        fetch_dataset(DatasetSpec(uri=f"pvc://claim/{path}"), Credentials(), tmp_path / "work", QUICK, str(tmp_path))


CONFIGS = [
    {"config_name": "default", "data_files": [{"split": "sft", "path": "x/*.jsonl"}]},
    {"config_name": "y", "data_files": "y/*"},
]
PARQUET = {"data/train-0-of-2.parquet": 1, "data/train-1-of-2.parquet": 1, "data/test-0.parquet": 2}
HUB_DATASETS: list[Any] = [
    pytest.param({"train.jsonl": 1, "test.jsonl": 2}, None, "train", {"train.jsonl"}, id="names"),
    pytest.param(PARQUET, None, "test", {"data/test-0.parquet"}, id="parquet"),
    pytest.param({"dev/a.jsonl": 1, "training/a.jsonl": 2}, None, "validation", {"dev/a.jsonl"}, id="folders"),
    pytest.param({"alpaca.json": 1}, None, "train", {"alpaca.json"}, id="one"),
    pytest.param({"x/a.jsonl": 1, "x/b.jsonl": 1, "y/a.jsonl": 1}, {"configs": CONFIGS}, "sft", {"x/a.jsonl", "x/b.jsonl"}, id="card"),
]


@pytest.mark.parametrize(("files", "card", "split", "expected"), HUB_DATASETS)
def test_hub_dataset_split(
    hub: Hub, tmp_path: Path, files: dict[str, int], card: dict[str, object] | None, split: str, expected: set[str]
) -> None:
    contents_ = {name: b"x" * size for name, size in files.items()}
    hub.repositories["datasets/org/data"] = Repository({**contents_, "README.md": b"", "data.py": b"raise SystemExit"}, card=card)
    dataset = DatasetSpec(uri="hf://org/data", split=split, endpoint_url=hub.url)
    fetched = fetch_dataset(dataset, Credentials(), tmp_path / "data", QUICK)
    assert {file.relative_to(fetched.root).as_posix() for file in fetched.files} == expected
    assert set(contents(tmp_path / "data")) == expected
    assert fetched.revision == "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize(
    ("files", "card", "words"),
    [
        ({"test.jsonl"}, None, "has no split 'train'; it has: test"),
        ({"data.py"}, None, "Loading scripts are never run"),
        ({"a/x.jsonl", "b/x.jsonl"}, {"configs": [{"config_name": name, "data_files": f"{name}/*"} for name in "ab"]}, r"\(a, b\)"),
    ],
)
def test_hub_dataset_refusals(hub: Hub, tmp_path: Path, files: set[str], card: dict[str, object] | None, words: str) -> None:
    hub.repositories["datasets/org/data"] = Repository(dict.fromkeys(files, b"x"), card=card)
    with pytest.raises(DataInvalid, match=words):
        fetch_dataset(DatasetSpec(uri="hf://org/data", endpoint_url=hub.url), Credentials(), tmp_path / "data", QUICK)
