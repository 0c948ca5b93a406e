"""The examples of serving: their manifests hang together, and the check of an artifact lets nothing else through."""

import hashlib
import json
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

SERVING = Path(__file__).resolve().parents[3] / "examples" / "serving"
DEPLOYMENTS = sorted(SERVING.rglob("deployment.yaml"))
find_faults: Callable[[Path, str], list[str]] = runpy.run_path(str(SERVING / "vllm-from-s3" / "verify.py"))["find_faults"]


@pytest.fixture
def artifact(tmp_path: Path) -> tuple[Path, str]:
    """A published folder and the digest that status names."""
    files = {"adapter_model.safetensors": b"weights", "tokenizer/vocab.json": b"{}"}
    for path, content in files.items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_bytes(content)
    listed = [{"path": path, "digest": f"sha256:{hashlib.sha256(content).hexdigest()}"} for path, content in files.items()]
    (tmp_path / "manifest.json").write_text(json.dumps({"files": listed}))
    return tmp_path, f"sha256:{hashlib.sha256((tmp_path / 'manifest.json').read_bytes()).hexdigest()}"


def test_what_was_published_is_served(artifact: tuple[Path, str]) -> None:
    assert find_faults(*artifact) == []


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda folder: (folder / "adapter_model.safetensors").write_bytes(b"others"), "adapter_model.safetensors is not what"),
        (lambda folder: (folder / "tokenizer/vocab.json").unlink(), "tokenizer/vocab.json is missing"),
        (lambda folder: (folder / "manifest.json").write_text('{"files": []}'), "the manifest is sha256:"),
        (lambda folder: (folder / "manifest.json").unlink(), "has no manifest.json"),
    ],
    ids=["changed", "missing", "another manifest", "no manifest"],
)
def test_nothing_else_is(artifact: tuple[Path, str], damage: Callable[[Path], Any], words: str) -> None:
    folder, digest = artifact
    damage(folder)
    (fault,) = find_faults(folder, digest)
    assert words in fault


@pytest.mark.parametrize("path", DEPLOYMENTS, ids=lambda path: path.parent.name)
def test_a_deployment_mounts_what_it_has_and_pins_what_it_serves(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    deployment = next(yaml.safe_load_all(text))
    pod = deployment["spec"]["template"]["spec"]
    volumes = {volume["name"] for volume in pod["volumes"]}
    mounted = {mount["name"] for container in pod["containers"] + pod.get("initContainers", []) for mount in container["volumeMounts"]}
    assert mounted == volumes
    assert deployment["spec"]["selector"]["matchLabels"] == deployment["spec"]["template"]["metadata"]["labels"]
    assert "sha256:" in text
    assert pod["automountServiceAccountToken"] is False
