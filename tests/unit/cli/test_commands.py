"""Commands that need no cluster: init, estimate, completion, start-up, and what is said where no cluster is."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from finetune_api.artifact import Artifact
from finetune_api.resource import parse_manifest
from finetune_cli.exit_codes import CliExit
from finetune_cli.main import app
from finetune_sdk import ApiError, ArtifactDamaged, ArtifactUnreachable, NotFound
from finetune_sdk.artifacts import download_artifact
from finetune_sdk.async_client import change_spec, retry_names
from tests.support.manifests import build_minimal_manifest
from tests.support.world import NOW

FINETUNE = str(Path(sys.executable).with_name("finetune"))
EXAMPLE_SWEEP = Path(__file__).parents[3] / "examples" / "sweep.yaml"
CONFIG = {
    "model_type": "qwen2",
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "vocab_size": 151936,
    "tie_word_embeddings": True,
}
INIT = ["init", "bot", "--model", "hf://a/b", "--dataset", "s3://a/b.jsonl", "--output-uri", "s3://a/out"]


def run(*words: str, stdin: str = "") -> tuple[int, str, str]:
    result = CliRunner().invoke(app, list(words), input=stdin)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stdout, result.stderr


def test_init_writes_a_manifest_that_is_valid(tmp_path: Path) -> None:
    path = tmp_path / "bot.yaml"
    words = [
        "--epochs",
        "2",
        "--queue",
        "research",
        "--secret",
        "s3",
        "--set",
        "training.maxLength=4096",
        "--gpus",
        "0",
        "--file",
        str(path),
    ]
    assert run(*INIT, *words)[0] == 0
    job = parse_manifest(yaml.safe_load(path.read_text()))
    assert (job.spec.training.epochs, job.spec.training.max_length, job.spec.resources.gpus) == (2, 4096, 0)
    assert job.spec.dataset.credentials_secret is not None
    assert run("validate", str(path))[0] == 0
    assert run("validate", "-f", str(path))[0] == 0, "as submit and estimate take it"
    assert run("validate")[0] == 2
    assert run(*INIT, "--file", str(path))[0] == 2, "a file that is there is not replaced"
    assert run(*INIT, "--file", str(path), "--force")[0] == 0


def test_init_names_every_fault_and_writes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "bot.yaml"
    code, _, said = run(*INIT, "--set", "training.epoch=3", "--set", "method.adapter=3", "--file", str(path))
    assert code == 1
    assert "spec.training.epoch: unknown field" in said
    assert "spec.method.adapter" in said
    assert not path.exists()


def test_init_asks_nobody_where_nobody_is() -> None:
    code, _, said = run("init", "bot")
    assert (code, "--model" in said) == (2, True)


def write_job(folder: Path, **spec: Any) -> tuple[str, str]:
    manifest = build_minimal_manifest("bot")
    manifest["spec"] |= spec
    (folder / "job.yaml").write_text(yaml.safe_dump(manifest))
    (folder / "config.json").write_text(json.dumps(CONFIG))
    return str(folder / "job.yaml"), str(folder / "config.json")


def test_estimate_says_whether_it_fits_by_its_exit_code(tmp_path: Path) -> None:
    job, config = write_job(tmp_path)
    assert run("estimate", "-f", job, "--config", config)[0] == CliExit.OK
    assert run("estimate", "-f", job, "--config", config, "--gpu-memory", "24Gi")[0] == CliExit.OK
    code, shown, _ = run("estimate", "-f", job, "--config", config, "--gpu-memory", "1Gi", "-o", "json")
    report = json.loads(shown)
    assert (code, report["fits"]) == (CliExit.DOES_NOT_FIT, False)
    assert report["totalBytes"] == sum(term["bytes"] for term in report["terms"])


def test_estimate_reads_the_configuration_where_a_local_model_lies(tmp_path: Path) -> None:
    job, _ = write_job(tmp_path, model={"uri": f"file://{tmp_path}"})
    assert run("estimate", "-f", job)[0] == CliExit.OK


def test_estimate_says_what_it_can_t_know(tmp_path: Path) -> None:
    job, config = write_job(tmp_path)
    Path(config).write_text(json.dumps({**CONFIG, "model_type": "mamba"}))
    code, _, said = run("estimate", "-f", job, "--config", config)
    assert (code, "model_type mamba are not known" in said) == (CliExit.INVALID, True)
    code, _, said = run("estimate", "-f", job, "--config", str(tmp_path / "missing.json"))
    assert (code, "can't be read" in said) == (CliExit.INVALID, True)


def test_what_is_no_job_is_left_to_kubectl(tmp_path: Path) -> None:
    (tmp_path / "other.yaml").write_text("apiVersion: v1\nkind: Secret\nmetadata: {name: a}\n---\n" + EXAMPLE_SWEEP.read_text())
    code, _, said = run("submit", "-f", str(tmp_path / "other.yaml"))
    assert code == 1
    assert "holds no FineTuneJob; other kinds are kubectl's" in said


def test_a_machine_without_any_kubeconfig_is_told_what_is_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", f"{tmp_path / 'one'}{os.pathsep}{tmp_path / 'two'}")
    code, shown, said = run("list")
    assert code == CliExit.CLUSTER
    assert f"there is no kubeconfig {tmp_path / 'one'}" in said
    assert len((shown + said).splitlines()) == 1


def test_no_cluster_is_said_in_a_line(tmp_path: Path) -> None:
    code, _, said = run("list", "--kubeconfig", str(tmp_path / "none"))
    assert code == CliExit.CLUSTER
    assert "there is no kubeconfig" in said
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "a",
        "clusters": [{"name": "a", "cluster": {"server": "https://127.0.0.1:1"}}],
        "contexts": [{"name": "a", "context": {"cluster": "a", "user": "a"}}],
        "users": [{"name": "a", "user": {"token": "x"}}],
    }
    (tmp_path / "config").write_text(yaml.safe_dump(config))
    code, _, said = run("list", "--kubeconfig", str(tmp_path / "config"))
    assert code == CliExit.CLUSTER
    assert "the API server at https://127.0.0.1:1 can't be reached" in said


@pytest.mark.parametrize("text", ["1x", "-3s", "s", "nan"])
def test_a_timeout_that_is_none_is_refused(text: str) -> None:
    assert run("wait", "x", "--timeout", text)[0] == CliExit.USAGE


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_gets_its_completion(shell: str) -> None:
    code, script, _ = run("completion", shell)
    assert code == 0
    assert "finetune" in script
    assert "_FINETUNE_COMPLETE" in script


HEAVY = ("kubernetes", "aiohttp", "pydantic", "torch", "fsspec", "yaml", "finetune_sdk")


def test_help_loads_nothing_heavy() -> None:
    """What `finetune --help` loads decides how soon it answers; a library that creeps in is named here."""
    words = f"import sys; from finetune_cli.main import app; print([name for name in {HEAVY} if name in sys.modules])"
    told = subprocess.run([sys.executable, "-c", words], capture_output=True, text=True, check=True)
    assert told.stdout == "[]\n"


def test_every_command_has_help() -> None:
    for command in ("init", "validate", "estimate", "submit", "list", "status", "logs", "wait", "suspend", "resume", "cancel", "retry"):
        assert run(command, "--help")[0] == 0


def publish(folder: Path, files: dict[str, bytes]) -> Artifact:
    """Publish files as a run does; returns the artifact as status has it."""
    entries = []
    for path, content in files.items():
        target = folder / path
        if ".." not in path:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
        entries.append({"path": path, "sizeBytes": len(content), "digest": f"sha256:{hashlib.sha256(content).hexdigest()}"})
    manifest = {
        "schemaVersion": 1,
        "kind": "adapter",
        "format": "peft",
        "files": entries,
        "jobUid": "u",
        "jobNamespace": "n",
        "jobName": "j",
        "attempt": 0,
        "step": 1,
        "totalSteps": 1,
        "baseModelUri": "hf://a/b",
        "versions": {},
        "config": {},
        "createdTime": "2026-01-02T03:04:05Z",
    }
    content = json.dumps(manifest).encode()
    (folder / "manifest.json").write_bytes(content)
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    return Artifact(
        name="adapter", format="peft", uri=f"file://{folder}", digest=digest, size_bytes=9, base_model="hf://a/b", created_time=NOW
    )


def test_an_artifact_is_downloaded_whole_and_its_manifest_last(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    artifact = publish(tmp_path / "store", {"adapter.safetensors": b"weights", "sub/card.md": b"card"})
    download_artifact(artifact, tmp_path / "here")
    assert (tmp_path / "here/adapter.safetensors").read_bytes() == b"weights"
    assert (tmp_path / "here/sub/card.md").read_bytes() == b"card"
    assert (tmp_path / "here/manifest.json").read_bytes() == (tmp_path / "store/manifest.json").read_bytes()
    seen: list[str] = []
    (tmp_path / "store/adapter.safetensors").unlink()
    download_artifact(artifact, tmp_path / "here", note=lambda path, _count: seen.append(path))
    assert seen == ["adapter.safetensors", "sub/card.md"], "what is there and whole is not fetched again"


def test_a_changed_file_or_manifest_is_refused_and_not_kept(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    artifact = publish(tmp_path / "store", {"a.bin": b"weights"})
    (tmp_path / "store/a.bin").write_bytes(b"WEIGHTS")
    with pytest.raises(ArtifactDamaged, match=r"a\.bin has the digest"):
        download_artifact(artifact, tmp_path / "here")
    assert list((tmp_path / "here").iterdir()) == []
    (tmp_path / "store/manifest.json").write_bytes(b"{}")
    with pytest.raises(ArtifactDamaged, match="but the run published"):
        download_artifact(artifact, tmp_path / "here")


@pytest.mark.parametrize("path", ["../outside", "/etc/passwd", "a/../../b", "manifest.json"])
def test_a_manifest_can_t_write_outside_its_folder(tmp_path: Path, path: str) -> None:
    (tmp_path / "store").mkdir()
    artifact = publish(tmp_path / "store", {"ok": b"x"})
    content = json.loads((tmp_path / "store/manifest.json").read_text())
    content["files"][0]["path"] = path
    changed = json.dumps(content).encode()
    (tmp_path / "store/manifest.json").write_bytes(changed)
    forged = artifact.model_copy(update={"digest": f"sha256:{hashlib.sha256(changed).hexdigest()}"})
    with pytest.raises(ArtifactDamaged, match="outside its folder"):
        download_artifact(forged, tmp_path / "here")


@pytest.mark.parametrize(("uri", "words"), [("pvc://claim/a", "only a pod can read"), ("file:///no/such/folder", "was it deleted")])
def test_what_can_t_be_reached_is_said(tmp_path: Path, uri: str, words: str) -> None:
    (tmp_path / "store").mkdir()
    artifact = publish(tmp_path / "store", {"a": b"x"}).model_copy(update={"uri": uri})
    with pytest.raises(ArtifactUnreachable, match=words):
        download_artifact(artifact, tmp_path / "here")


def test_retries_are_numbered_on() -> None:
    assert retry_names("bot", set())[0] == "bot-retry-1"
    assert retry_names("bot", {"bot-retry-1"})[0] == "bot-retry-2"
    assert retry_names("bot-retry-1", set())[0] == "bot-retry-2"
    assert len(retry_names("b" * 63, set())[0]) == 63


def test_a_change_reaches_the_field_it_names() -> None:
    spec = {"training": {"epochs": 3}, "suspend": True}
    assert change_spec(spec, {"training.epochs": 1, "method.adapter.r": 8, "suspend": None}) == {
        "training": {"epochs": 1},
        "method": {"adapter": {"r": 8}},
    }
    assert spec["training"] == {"epochs": 3}, "the original stays"


def test_the_server_s_words_are_unwrapped() -> None:
    causes = [{"field": "spec.method", "message": 'Invalid value: "object": adapter.dora is not supported'}]
    error = ApiError(422, {"reason": "Invalid", "message": "long", "details": {"causes": causes}}, "creating x")
    assert str(error) == "creating x: refused as invalid:\n  spec.method: adapter.dora is not supported"
    missing = NotFound(404, {"message": "the server could not find the requested resource"}, "listing")
    assert "the operator's CRD is not installed there" in str(missing)
