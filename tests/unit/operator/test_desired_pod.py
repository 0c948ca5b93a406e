"""The trainer's pod."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given

from finetune_api.names import (
    ENV_CONFIG,
    ENV_TRACEPARENT,
    ENV_TRACING_ENDPOINT,
    ENV_TRACING_HEADERS,
    PVC_MOUNT_ROOT,
    TOKEN_DIR,
    TRAINER_CONTAINER,
    report_audience,
)
from finetune_api.spec import FineTuneJobSpec
from finetune_api.tracing import AttemptTrace
from finetune_api.trainer_config import ReportingConfig, TrainerConfig
from finetune_operator.desired.config import build_trainer_config
from finetune_operator.desired.pod import build_claims, build_pod_spec
from finetune_operator.settings import TracingSettings
from tests.support.kubernetes_env import expand
from tests.support.manifests import Manifest
from tests.support.pod_security import find_violations
from tests.support.strategies import SPECS
from tests.support.world import REF, UID, build_spec

REPORTING = ReportingConfig(url="https://reports.example.com/v1/reports", ca_certificate="PEM")


def _config(spec: FineTuneJobSpec) -> TrainerConfig:
    return build_trainer_config(spec, REF, 0, simulated_gpus=False, reporting=REPORTING)


def _pod(spec: FineTuneJobSpec) -> Manifest:
    return build_pod_spec(spec, _config(spec), image="trainer:1", image_pull_policy="Always", grace_seconds=300)


def _container(spec: FineTuneJobSpec) -> Manifest:
    (container,) = _pod(spec)["containers"]
    assert container["name"] == TRAINER_CONTAINER
    return dict(container)


@given(SPECS)
def test_every_pod_passes_the_restricted_standard(spec: FineTuneJobSpec) -> None:
    assert find_violations(_pod(spec)) == []


@pytest.mark.parametrize(
    "sabotage",
    [
        lambda pod: pod.update(hostNetwork=True),
        lambda pod: pod["volumes"].append({"name": "host", "hostPath": {"path": "/"}}),
        lambda pod: pod["securityContext"].pop("runAsNonRoot"),
        lambda pod: pod["securityContext"].pop("seccompProfile"),
        lambda pod: pod["securityContext"].update(runAsUser=0),
        lambda pod: pod["containers"][0]["securityContext"].pop("allowPrivilegeEscalation"),
        lambda pod: pod["containers"][0]["securityContext"].update(privileged=True),
        lambda pod: pod["containers"][0]["securityContext"]["capabilities"].update(add=["SYS_ADMIN"]),
        lambda pod: pod["containers"][0]["securityContext"].pop("capabilities"),
    ],
    ids=[
        "host network",
        "host path",
        "root allowed",
        "no seccomp profile",
        "user 0",
        "escalation allowed",
        "privileged",
        "capability added",
        "capabilities kept",
    ],
)
def test_the_check_of_the_standard_can_fail(sabotage: Any) -> None:
    pod = _pod(build_spec())
    sabotage(pod)
    assert len(find_violations(pod)) == 1


@given(SPECS)
def test_the_trainer_reads_the_very_configuration_that_was_meant(spec: FineTuneJobSpec) -> None:
    """What it reads is what Kubernetes makes of the manifest: it replaces $(NAME) and $$ in values."""
    seen = expand(_container(spec)["env"])
    assert TrainerConfig.model_validate_json(seen[ENV_CONFIG]) == _config(spec)


def test_a_dollar_in_the_configuration_stays_one() -> None:
    spec = build_spec({"output": {"uri": "s3://team-a/$(HOME)/$$out"}, "method": {"adapter": {"targetModules": r"(q|k)_proj$"}}})
    config = TrainerConfig.model_validate_json(expand(_container(spec)["env"])[ENV_CONFIG])
    assert config.output.uri == "s3://team-a/$(HOME)/$$out"
    assert config.method.adapter.target_modules == r"(q|k)_proj$"


@given(SPECS)
def test_no_variable_is_given_twice(spec: FineTuneJobSpec) -> None:
    names = [variable["name"] for variable in _container(spec)["env"]]
    assert names.count(ENV_CONFIG) == 1
    assert len([name for name in names if name != "HOME"]) == len({name for name in names if name != "HOME"})


@given(SPECS)
def test_credentials_come_by_reference_only(spec: FineTuneJobSpec) -> None:
    container = _container(spec)
    assert all(set(source) == {"prefix", "secretRef"} for source in container["envFrom"])
    assert all("secretKeyRef" not in variable.get("valueFrom", {}) for variable in container["env"])
    prefixes = [source["prefix"] for source in container["envFrom"]]
    assert len(prefixes) == len(set(prefixes))


@given(SPECS)
def test_every_mount_has_its_volume_and_every_volume_its_mount(spec: FineTuneJobSpec) -> None:
    pod = _pod(spec)
    volumes = [volume["name"] for volume in pod["volumes"]]
    mounts = [mount["name"] for mount in pod["containers"][0]["volumeMounts"]]
    assert sorted(volumes) == sorted(mounts)
    assert len(set(volumes)) == len(volumes)
    paths = [mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"]]
    assert len(set(paths)) == len(paths)


def test_the_claim_that_is_written_to_is_mounted_so_and_the_others_are_not() -> None:
    spec = build_spec({"model": {"uri": "pvc://models/llama"}, "dataset": {"uri": "pvc://shared/d"}, "output": {"uri": "pvc://shared/o"}})
    assert build_claims(spec) == {"models": True, "shared": False}
    mounts = {mount["mountPath"]: mount["readOnly"] for mount in _container(spec)["volumeMounts"] if "claim" in mount["name"]}
    assert mounts == {f"{PVC_MOUNT_ROOT}/models": True, f"{PVC_MOUNT_ROOT}/shared": False}


def test_the_one_token_is_for_this_run_s_reports_and_short_lived() -> None:
    pod = _pod(build_spec())
    (projected,) = [volume["projected"] for volume in pod["volumes"] if "projected" in volume]
    assert projected["sources"] == [{"serviceAccountToken": {"path": "token", "audience": report_audience(UID), "expirationSeconds": 3600}}]
    assert pod["automountServiceAccountToken"] is False
    assert {"name": "report-token", "mountPath": TOKEN_DIR, "readOnly": True} in pod["containers"][0]["volumeMounts"]


def test_a_run_on_the_cpu_asks_for_no_gpu_and_tolerates_no_gpu_taint() -> None:
    pod = _pod(build_spec({"resources": {"gpus": 0}}))
    assert "tolerations" not in pod
    assert all("gpu" not in name for name in pod["containers"][0]["resources"]["limits"])


def test_gpu_memory_is_asked_for_by_label_in_mebibytes() -> None:
    affinity = _pod(build_spec({"resources": {"minGpuMemory": "24Gi"}}))["affinity"]["nodeAffinity"]
    (term,) = affinity["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    assert term == {"matchExpressions": [{"key": "nvidia.com/gpu.memory", "operator": "Gt", "values": ["24575"]}]}


@pytest.mark.parametrize(
    ("resource", "label"),
    [
        ("nvidia.com/gpu", "nvidia.com/gpu"),
        ("nvidia.com/gpu.shared", "nvidia.com/gpu"),
        ("nvidia.com/mig-3g.40gb", "nvidia.com/mig-3g.40gb"),
        ("nvidia.com/mig-3g.40gb.shared", "nvidia.com/mig-3g.40gb"),
    ],
)
def test_parts_of_gpus_are_placed_by_the_labels_of_their_own_kind(resource: str, label: str) -> None:
    wanted = {"gpuResource": resource, "minGpuMemory": "24000M", "gpuProducts": ["A", "B"]}
    pod = _pod(build_spec({"resources": wanted}))
    (term,) = pod["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    assert term["matchExpressions"] == [
        {"key": f"{label}.memory", "operator": "Gt", "values": ["22888"]},  # 22,888.2 MiB
        {"key": f"{label}.product", "operator": "In", "values": ["A", "B"]},
    ]
    assert pod["containers"][0]["resources"]["limits"][resource] == "1"


def test_a_part_of_a_gpu_bears_the_taints_of_gpu_nodes() -> None:
    tolerations = _pod(build_spec({"resources": {"gpuResource": "nvidia.com/mig-1g.10gb"}}))["tolerations"]
    assert [each["key"] for each in tolerations] == ["nvidia.com/mig-1g.10gb", "nvidia.com/gpu"]


def test_a_claim_by_template_takes_the_place_of_the_resource() -> None:
    pod = _pod(build_spec({"resources": {"gpuClaimTemplate": "one-gpu"}}))
    assert pod["resourceClaims"] == [{"name": "gpus", "resourceClaimTemplateName": "one-gpu"}]
    asked = pod["containers"][0]["resources"]
    assert asked["claims"] == [{"name": "gpus"}]
    assert set(asked["limits"]) == {"memory"}
    assert [each["key"] for each in pod["tolerations"]] == ["nvidia.com/gpu"]


def test_simulated_gpus_let_the_trainer_use_the_cpu() -> None:
    config = build_trainer_config(build_spec(), REF, 0, simulated_gpus=True, reporting=None)
    assert (config.device.gpus, config.device.allow_cpu) == (1, True)


def test_tracing_adds_the_attempts_place_in_its_trace_or_nothing_at_all() -> None:
    spec = build_spec()
    plain = _pod(spec)
    settings = TracingSettings("http://collector:4318", headers="authorization=of-the-operator")

    def trace(settings: TracingSettings) -> Manifest:
        return build_pod_spec(spec, _config(spec), image="trainer:1", image_pull_policy="Always", grace_seconds=300, tracing=settings)

    added = [each for each in trace(settings)["containers"][0]["env"] if each not in plain["containers"][0]["env"]]
    assert added == [
        {"name": ENV_TRACING_ENDPOINT, "value": "http://collector:4318"},
        {"name": ENV_TRACEPARENT, "value": AttemptTrace.of(UID, 0).traceparent},
    ]
    assert trace(replace(settings, ratio=0)) == plain
    assert trace(replace(settings, trainer_secret="otlp"))["containers"][0]["env"][-1] == {
        "name": ENV_TRACING_HEADERS,
        "valueFrom": {"secretKeyRef": {"name": "otlp", "key": "headers", "optional": True}},
    }
