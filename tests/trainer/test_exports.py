"""The merged model, the GGUF file, the 4-bit model and their copies say what the adapter says; a pod lost between them trains no step."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from finetune_api.artifact import ArtifactManifest
from finetune_api.exit_codes import ExitCode
from tests.support.export_checks import break_merge, compare_forms, die_before
from tests.support.registry_server import run_registry
from tests.support.trainer_process import Trainers
from tests.support.trainer_workspace import make_config
from tests.trainer.conftest import Finished

pytestmark = pytest.mark.torch


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with run_registry(tmp_path_factory.mktemp("registry")) as url:
        yield url


GPTQ = {"gptq": {"groupSize": 32}}
"""As narrow as the tests' model."""


def build_config(workspace: Path, name: str, registry: str, **output: Any) -> dict[str, Any]:
    pushes = [
        {"uri": f"oci://registry.example.com/{name}/{kind}:v1", "artifact": kind, "endpointUrl": registry} for kind in ("adapter", "gguf")
    ]
    return make_config(
        workspace,
        name,
        output={"uri": f"file://{workspace}/out/{name}", "merged": True, "gguf": {"type": "f16"}, **GPTQ, "push": pushes, **output},
        training={"maxSteps": 12, "learningRate": 2e-2, "evalSteps": None, "checkpoint": {"everySteps": 1000}},
    )


@pytest.fixture(scope="module")
def exported(trainers: Trainers, workspace: Path, registry: str) -> Finished:
    code, process = trainers.run(build_config(workspace, "exported", registry))
    assert code == 0, process.log
    return Finished(code, process, workspace / "out" / "exported")


def test_every_artifact_is_named_with_its_digest(exported: Finished) -> None:
    artifacts = exported.process.summary.artifacts
    assert [(a.name, a.format) for a in artifacts] == [
        ("adapter", "peft"),
        ("merged", "transformers"),
        ("gguf", "gguf"),
        ("gptq", "compressed-tensors"),
        ("adapter", "peft"),
        ("gguf", "gguf"),
    ]
    assert [a.uri for a in artifacts[4:]] == [f"oci://registry.example.com/exported/{kind}:v1" for kind in ("adapter", "gguf")]
    assert len({a.digest for a in artifacts}) == 6
    for kind in ("adapter", "merged", "gguf", "gptq"):
        manifest = ArtifactManifest.model_validate_json((exported.output / kind / "manifest.json").read_bytes())
        assert (manifest.kind, manifest.step) == (kind, 12)
        names = {file.path for file in manifest.files}
        assert {"README.md", "report.html", "metrics.jsonl", "evaluation.json"} <= names
    assert "library_name: transformers" in (exported.output / "merged" / "README.md").read_text()


def test_all_forms_answer_alike(exported: Finished, trainers: Trainers, workspace: Path) -> None:
    """Merged and 4-bit model loaded by transformers, the GGUF file by transformers' own reader, the adapter by PEFT on the 16-bit base."""
    result = workspace / "forms.json"
    compared = trainers.call(compare_forms, workspace / "model", exported.output, result)
    assert compared.wait() == 0, compared.log
    found = json.loads(result.read_text())
    assert found["effect"] > 0.05, "the adapter changes too little to tell"
    assert found["merged"] < 0.05 * found["effect"]
    assert found["gguf"] < 0.05 * found["effect"]
    assert 0 < found["gptq"] < 0.3 * found["effect"]
    assert found["packed"] == found["linear"] == 14, "every linear layer of the two is in 4 bits"
    assert found["same_tokens"]
    manifest = json.loads((exported.output / "merged" / "manifest.json").read_text())
    assert manifest["metrics"]["mergeDivergence"] < manifest["metrics"]["mergeAdapterEffect"]
    assert manifest["metrics"]["mergeAgreement"] > 0.9


@pytest.mark.parametrize("moment", ["merged", "gguf", "push"])
def test_a_pod_lost_after_the_adapter_trains_no_step_again(
    moment: str, exported: Finished, trainers: Trainers, workspace: Path, registry: str
) -> None:
    config = build_config(workspace, "exported", registry)
    for kind in {"merged": ("merged", "gguf", "gptq"), "gguf": ("gguf",), "push": ()}[moment]:
        shutil.rmtree(exported.output / kind)
    shutil.rmtree(workspace / "work" / "exported")
    assert trainers.call(die_before, config, moment).wait() == 137
    code, process = trainers.run(config)
    assert code == 0, process.log
    assert "ready to train" not in process.log
    again = {(a.name, a.uri): a.digest for a in process.summary.artifacts}
    first = {(a.name, a.uri): a.digest for a in exported.process.summary.artifacts}
    assert again.keys() == first.keys()
    assert (
        again["adapter", "oci://registry.example.com/exported/adapter:v1"]
        == first["adapter", "oci://registry.example.com/exported/adapter:v1"]
    )


def test_a_merge_that_answers_differently_is_not_published(trainers: Trainers, workspace: Path, registry: str) -> None:
    config = build_config(workspace, "broken-merge", registry, push=[], gguf=None, gptq=None)
    ended = trainers.call(break_merge, config)
    assert ended.wait() == ExitCode.CONFIG_INVALID, ended.log
    assert "answers differently from the adapter" in ended.summary.message
    assert (workspace / "out" / "broken-merge" / "adapter" / "manifest.json").exists()
    assert not (workspace / "out" / "broken-merge" / "merged").exists()


def test_a_model_that_gguf_cannot_hold_is_refused_before_training(trainers: Trainers, workspace: Path, registry: str) -> None:
    shutil.copytree(workspace / "model", workspace / "stretched", dirs_exist_ok=True)
    settings = json.loads((workspace / "stretched" / "config.json").read_text())
    settings["rope_parameters"] = {"rope_type": "linear", "factor": 2.0, "rope_theta": 10_000.0}
    (workspace / "stretched" / "config.json").write_text(json.dumps(settings))
    config = {**build_config(workspace, "stretched-run", registry), "model": {"uri": f"file://{workspace}/stretched"}}
    code, process = trainers.run(config)
    assert code == ExitCode.CONFIG_INVALID
    assert "output.gguf" in process.summary.message
    assert "model loaded" not in process.log


def test_a_model_that_groups_do_not_divide_is_refused_before_training(trainers: Trainers, workspace: Path, registry: str) -> None:
    config = build_config(workspace, "too-narrow", registry, merged=False, push=[], gguf=None, gptq={"groupSize": 128})
    code, process = trainers.run(config)
    assert code == ExitCode.CONFIG_INVALID
    assert "width 32, which output.gptq.groupSize 128 does not divide" in process.summary.message
    assert "model loaded" not in process.log
