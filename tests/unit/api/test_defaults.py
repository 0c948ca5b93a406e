"""What a platform gives to runs, and what a run says itself."""

from typing import Any

import pytest
from hypothesis import given

from finetune_api.defaults import DefaultsByNamespace, PlatformDefaults, RecordedDefaults, apply_defaults, merge_defaults
from finetune_api.spec import FineTuneJobSpec
from tests.support.manifests import Manifest
from tests.support.strategies import SPECS
from tests.support.world import build_spec

S3 = {"prefix": "s3://", "credentialsSecret": {"name": "s3"}, "endpointUrl": "https://minio.example.com"}
TEAM = {"prefix": "s3://team-a", "credentialsSecret": {"name": "team-a"}}
HUB = {"prefix": "hf://", "credentialsSecret": {"name": "hub"}}
MLFLOW = {"type": "mlflow", "url": "https://mlflow.example.com"}


def _defaults(**given: Any) -> PlatformDefaults:
    return PlatformDefaults.model_validate(given)


def _apply(spec: Manifest, **given: Any) -> FineTuneJobSpec:
    return apply_defaults(build_spec(spec), _defaults(**given))


@given(SPECS)
def test_without_defaults_a_run_is_what_it_says(spec: FineTuneJobSpec) -> None:
    assert apply_defaults(spec, None) is spec
    assert apply_defaults(spec, PlatformDefaults()) == spec


@given(SPECS)
def test_applying_them_again_changes_nothing(spec: FineTuneJobSpec) -> None:
    defaults = _defaults(
        nodeSelector={"pool": "gpu"},
        tolerations=[{"key": "gpu", "operator": "Exists"}],
        env=[{"name": "A", "value": "b"}],
        imagePullSecrets=[{"name": "registry"}],
        queueName="team-a",
        credentials=[S3, HUB],
        tracking=[MLFLOW],
    )
    once = apply_defaults(spec, defaults)
    assert apply_defaults(once, defaults) == once


def test_what_the_run_says_itself_stays() -> None:
    spec = _apply(
        {
            "pod": {"nodeSelector": {"pool": "own"}, "env": [{"name": "A", "value": "own"}]},
            "scheduling": {"queueName": "own", "priorityClassName": "own"},
            "tracking": [{"type": "tensorboard"}],
        },
        nodeSelector={"pool": "gpu", "zone": "a"},
        env=[{"name": "A", "value": "b"}, {"name": "B", "value": "b"}],
        queueName="team-a",
        priorityClassName="low",
        workloadPriorityClassName="low",
        tracking=[MLFLOW],
    )
    assert spec.pod.node_selector == {"pool": "own", "zone": "a"}
    assert {each.name: each.value for each in spec.pod.env} == {"A": "own", "B": "b"}
    assert spec.scheduling.queue_name == "own"
    assert spec.scheduling.priority_class_name == "own"
    assert spec.scheduling.workload_priority_class_name == "low"
    assert [tracker.type for tracker in spec.tracking] == ["tensorboard"]


def test_lists_are_joined_and_nothing_is_twice() -> None:
    toleration = {"key": "gpu", "operator": "Exists"}
    own = {"pod": {"tolerations": [toleration], "imagePullSecrets": [{"name": "own"}]}}
    spec = _apply(own, tolerations=[toleration, {"key": "spot", "operator": "Exists"}], imagePullSecrets=[{"name": "own"}, {"name": "all"}])
    assert [each.key for each in spec.pod.tolerations] == ["gpu", "spot"]
    assert [each.name for each in spec.pod.image_pull_secrets] == ["own", "all"]


def _secret_of(source: Any) -> str | None:
    return source.credentials_secret.name if source.credentials_secret is not None else None


def test_credentials_reach_every_source_and_output_by_the_longest_prefix() -> None:
    spec = _apply(
        {
            "model": {"uri": "hf://org/model"},
            "dataset": {
                "uri": "s3://shared/train.jsonl",
                "eval": {"uri": "s3://team-a/eval.jsonl"},
                "additional": [{"uri": "s3://team-a/more.jsonl"}],
            },
            "method": {"objective": "distill", "distill": {"teacher": {"uri": "s3://shared/teacher"}}},
            "output": {"uri": "s3://team-ab/out", "push": [{"uri": "hf://org/adapter"}]},
        },
        credentials=[S3, TEAM, HUB],
    )
    assert _secret_of(spec.model) == "hub"
    assert _secret_of(spec.dataset) == "s3"
    assert _secret_of(spec.dataset.eval) == "team-a"
    assert _secret_of(spec.dataset.additional[0]) == "team-a"
    assert spec.method.distill is not None
    assert _secret_of(spec.method.distill.teacher) == "s3"
    assert (_secret_of(spec.output), spec.output.endpoint_url) == ("s3", "https://minio.example.com"), "team-a is not team-ab"
    assert _secret_of(spec.output.push[0]) == "hub"


@pytest.mark.parametrize(
    "own", [{"credentialsSecret": {"name": "own"}}, {"endpointUrl": "https://elsewhere.example.com"}], ids=["a Secret", "an endpoint"]
)
def test_a_platform_s_secret_is_not_sent_to_an_endpoint_that_the_run_names(own: Manifest) -> None:
    spec = _apply({"output": {"uri": "s3://team-a/out", **own}}, credentials=[S3])
    assert spec.output == build_spec({"output": {"uri": "s3://team-a/out", **own}}).output


def test_a_namespace_goes_before_the_cluster_entry_by_entry() -> None:
    defaults = DefaultsByNamespace.model_validate(
        {
            "cluster": {"nodeSelector": {"pool": "gpu", "zone": "a"}, "queueName": "all", "credentials": [S3, HUB], "tracking": [MLFLOW]},
            "namespaces": {
                "team-a": {
                    "nodeSelector": {"zone": "b"},
                    "queueName": "team-a",
                    "credentials": [{"prefix": "s3://", "credentialsSecret": {"name": "own"}}],
                }
            },
        }
    )
    of_team = defaults.of("team-a")
    assert of_team is not None
    assert of_team.node_selector == {"pool": "gpu", "zone": "b"}
    assert of_team.queue_name == "team-a"
    assert {each.prefix: _secret_of(each) for each in of_team.credentials} == {"s3://": "own", "hf://": "hub"}
    assert [each.type for each in of_team.tracking] == ["mlflow"]
    assert defaults.of("team-b") == merge_defaults(defaults.cluster, None)
    assert DefaultsByNamespace().of("team-a") is None


def test_what_a_later_release_recorded_is_read_as_far_as_it_is_known() -> None:
    assert RecordedDefaults.model_validate({"queueName": "a", "moonPhase": "full"}) == RecordedDefaults(queue_name="a")
