"""Manifests as people write them."""

import pytest
import yaml

from finetune_api.resource import SpecInvalid, parse_manifest, parse_spec

# DESIGN.md's, with what this release does not have yet taken out; 2.0e-4, since PyYAML alone reads 2e-4 as text (the command line doesn't).
DESIGNED = """
apiVersion: finetune.dev/v1alpha1
kind: FineTuneJob
metadata: {name: support-bot, namespace: team-a}
spec:
  model:
    uri: hf://meta-llama/Llama-3.1-8B-Instruct
    revision: 0e9e39f249a16976918f6564b8830bc894c89659
    credentialsSecret: {name: hf-token}
  dataset:
    uri: s3://team-a/support.jsonl
    format: auto
    evalFraction: 0.05
  method:
    objective: sft
    adapter: {type: lora, r: 16, alpha: 32, dropout: 0.05, targetModules: all-linear}
    quantization: {type: nf4, doubleQuant: true, computeDtype: bfloat16}
  training:
    epochs: 3
    learningRate: 2.0e-4
    perDeviceBatchSize: 4
    gradientAccumulationSteps: 4
    maxLength: 2048
    packing: true
    gradientCheckpointing: true
    optimizer: paged_adamw_8bit
  resources: {gpus: 1, nodes: 1, gpuResource: nvidia.com/gpu, minGpuMemory: 24Gi, memory: 32Gi}
  scheduling: {queueName: team-a, priorityClassName: research}
  output: {uri: s3://team-a/adapters/support-bot, credentialsSecret: {name: s3}}
  suspend: false
  backoffLimit: 3
  activeDeadlineSeconds: 86400
  ttlSecondsAfterFinished: 604800
"""


def test_the_designed_manifest_is_read() -> None:
    job = parse_manifest(yaml.safe_load(DESIGNED))
    assert job.spec.training.learning_rate == 2e-4
    assert job.spec.scheduling.queue_name == "team-a"
    assert job.spec.model_dump(exclude_unset=True) == {**yaml.safe_load(DESIGNED)["spec"]}


def test_what_it_leaves_out_is_the_default() -> None:
    designed = yaml.safe_load(DESIGNED)["spec"]
    least = {section: {"uri": designed[section]["uri"]} for section in ("model", "dataset", "output")}
    spec = parse_spec(least)
    assert spec.method == parse_spec(designed).method
    assert spec.training == parse_spec(designed).training
    assert (spec.backoff_limit, spec.ttl_seconds_after_finished) == (3, 604_800)
    assert spec.dataset.resolved_eval_fraction == 0.05


def test_a_spec_survives_being_written_and_read() -> None:
    spec = parse_spec(yaml.safe_load(DESIGNED)["spec"])
    assert parse_spec(spec.model_dump(mode="json")) == spec
    assert parse_spec(spec.model_dump(mode="json", exclude_defaults=True)) == spec


@pytest.mark.parametrize("status", [{"phase": "FromTheFuture"}, {"anything": 1}])
def test_a_manifest_may_carry_the_status_that_kubectl_printed(status: object) -> None:
    assert parse_manifest(yaml.safe_load(DESIGNED) | {"status": status}).status.phase is None


def test_a_manifest_without_a_name_is_refused_and_one_with_a_generated_name_is_not() -> None:
    manifest = yaml.safe_load(DESIGNED)
    with pytest.raises(SpecInvalid, match=r"metadata\.name: must be given"):
        parse_manifest(manifest | {"metadata": {}})
    with pytest.raises(SpecInvalid, match=r"metadata\.name: must be given"):
        parse_manifest({key: value for key, value in manifest.items() if key != "metadata"})
    assert parse_manifest(manifest | {"metadata": {"generateName": "bot-"}})
