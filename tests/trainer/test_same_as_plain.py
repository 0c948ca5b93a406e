"""The trainer computes what TRL and PEFT compute, and what it publishes is what it trained."""

import hashlib
import json
from pathlib import Path

import pytest

from finetune_api.artifact import ArtifactManifest
from tests.support.trainer_process import Trainers
from tests.support.trainer_workspace import compare_with_published, make_config, train_plainly
from tests.trainer.conftest import Finished

pytestmark = pytest.mark.torch


def test_loss_curve_equals_plain_trl(uninterrupted: Finished, trainers: Trainers, workspace: Path) -> None:
    """Exactly, step by step, although the trainer also evaluated before, between and after its steps, and saved checkpoints."""
    result = workspace / "plain.json"
    plain = trainers.call(train_plainly, workspace, result)
    assert plain.wait() == 0, plain.log
    expected = json.loads(result.read_text())
    got = [line for line in uninterrupted.lines if "loss" in line]
    assert len(expected) == 14
    for key in ("step", "loss", "grad_norm", "learning_rate", "num_tokens"):
        assert [line[key] for line in got] == [line[key] for line in expected], key
    ours = (uninterrupted.adapter / "adapter_model.safetensors").read_bytes()
    theirs = (workspace / "plain-adapter" / "adapter_model.safetensors").read_bytes()
    assert hashlib.sha256(ours).digest() == hashlib.sha256(theirs).digest()
    losses = [line["loss"] for line in got]
    assert min(losses[-3:]) < losses[0], "nothing was learnt"


def test_summary_of_a_completed_run(uninterrupted: Finished) -> None:
    summary = uninterrupted.process.summary
    assert (summary.outcome, summary.reason, summary.device) == ("completed", "Completed", "cpu")
    assert summary.progress is not None
    assert (summary.progress.step, summary.progress.total_steps, summary.progress.percentage) == (14, 14, 100)
    assert summary.dataset is not None
    assert (summary.dataset.examples, summary.dataset.eval_examples) == (60, 12)
    metrics = summary.metrics
    assert metrics.base_eval_loss is not None
    assert metrics.eval_loss is not None
    assert metrics.eval_loss < metrics.base_eval_loss
    evaluations = {line["step"]: line["eval_loss"] for line in uninterrupted.lines if "eval_loss" in line}
    assert sorted(evaluations) == [0, 5, 10, 14]
    assert (evaluations[0], evaluations[14]) == pytest.approx((metrics.base_eval_loss, metrics.eval_loss), rel=1e-4)  # status rounds
    assert metrics.tokens_seen == uninterrupted.lines[-2]["num_tokens"]
    assert [point.step for point in metrics.history] == list(range(1, 15))


def test_artifact_has_a_manifest_and_checkpoints_are_gone(uninterrupted: Finished, workspace: Path) -> None:
    content = (uninterrupted.adapter / "manifest.json").read_bytes()
    manifest = ArtifactManifest.model_validate_json(content)
    [artifact] = uninterrupted.process.summary.artifacts
    assert artifact.digest == f"sha256:{hashlib.sha256(content).hexdigest()}"
    assert {file.path for file in manifest.files} >= {"adapter_model.safetensors", "adapter_config.json", "tokenizer.json", "metrics.jsonl"}
    assert not [file.path for file in manifest.files if file.path.endswith((".bin", ".pt", ".pth"))]
    for file in manifest.files:
        assert file.digest == f"sha256:{hashlib.sha256((uninterrupted.adapter / file.path).read_bytes()).hexdigest()}"
    settings = json.loads((uninterrupted.adapter / "adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] == f"file://{workspace}/model"
    assert str(workspace / "work") not in json.dumps(settings)
    assert settings["target_modules"] == sorted(settings["target_modules"])  # PEFT's order is another one in each process
    assert len(settings["target_modules"]) > 2
    assert manifest.config["method"]["adapter"]["r"] == 8
    assert {path.name for path in uninterrupted.output.iterdir()} == {"adapter"}


@pytest.mark.parametrize(
    ("name", "training"),
    [("published", {"packing": True}), ("unpacked", {"packing": False, "gradientCheckpointing": False, "optimizer": "adamw_torch"})],
)
def test_peft_loads_what_was_trained(name: str, training: dict[str, object], trainers: Trainers, workspace: Path) -> None:
    config = make_config(workspace, name, training={"maxSteps": 3, "learningRate": 2e-2, **training})
    before = {file.name: hashlib.sha256(file.read_bytes()).digest() for file in (workspace / "model").iterdir()}
    result = workspace / f"{name}.json"
    compared = trainers.call(compare_with_published, config, result)
    assert compared.wait() == 0, compared.log
    found = json.loads(result.read_text())
    assert found["finite"]
    assert found["largest_difference"] == 0.0
    assert found["effect_of_adapter"] > 0.01
    assert found["same_names"]
    assert found["changed"] == []
    assert before == {file.name: hashlib.sha256(file.read_bytes()).digest() for file in (workspace / "model").iterdir()}
