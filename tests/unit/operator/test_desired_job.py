"""The Job of an attempt."""

import json
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from finetune_api.exit_codes import OUTCOMES, ExitCode
from finetune_api.names import ENV_CONFIG, ENV_PREFIX_MODEL, LABEL_QUEUE_NAME, MANAGED_BY, MODEL_CACHE_ROOT
from finetune_api.report import JobReference
from finetune_api.trainer_config import ReportingConfig
from finetune_operator.desired.group import build_service
from finetune_operator.desired.job import build_failure_rules, build_job
from finetune_operator.desired.names import build_job_name
from finetune_operator.settings import TrainerSettings
from tests.support.manifests import Manifest
from tests.support.pod_security import find_violations
from tests.support.strategies import JOB_NAMES, SPECS, UIDS
from tests.support.world import NAME, NAMESPACE, REF, TRAINER, UID, build_spec

GOLDEN = Path(__file__).parent / "golden"
UPDATE = bool(os.environ.get("UPDATE_GOLDEN"))
REPORTING = ReportingConfig(url="https://reports.example.com:8443/v1/reports", ca_certificate="PEM of the authority")
SECRET = {"credentialsSecret": {"name": "team-s3"}}
GANGS = replace(TRAINER, gang_schedulers={"volcano": "volcano", "coscheduling": "scheduler-plugins-scheduler"})

CASES: dict[str, Manifest] = {
    "minimal": {},
    "cpu": {"resources": {"gpus": 0, "cpu": "500m", "memory": "3Gi"}},
    "gpu": {
        "resources": {
            "gpus": 1,
            "gpuResource": "nvidia.com/mig-3g.40gb",
            "minGpuMemory": "24Gi",
            "gpuProducts": ["NVIDIA-H100-80GB-HBM3-MIG-3g.40gb"],
            "memory": "32Gi",
        }
    },
    "device-claim": {"resources": {"gpus": 1, "gpuClaimTemplate": "one-gpu"}},
    "claims": {
        "model": {"uri": "pvc://models/llama"},
        "dataset": {
            "uri": "pvc://shared/data.jsonl",
            "eval": {"uri": "pvc://models/eval.jsonl"},
            "additional": [{"uri": "pvc://more/b.jsonl"}],
        },
        "method": {"objective": "distill", "distill": {"teacher": {"uri": "pvc://teachers/large"}}},
        "output": {"uri": "pvc://shared/out"},
    },
    "several-gpus": {"resources": {"gpus": 4}},
    "several-nodes": {"resources": {"gpus": 2, "nodes": 3}, "pod": {"env": [{"name": "NCCL_SOCKET_IFNAME", "value": "eth0"}]}},
    "gang-by-volcano": {"resources": {"gpus": 2, "nodes": 3}, "scheduling": {"gang": "volcano"}},
    "gang-by-coscheduling": {"resources": {"gpus": 2, "nodes": 3}, "scheduling": {"gang": "coscheduling", "queueName": "team-a"}},
    "queue": {"scheduling": {"queueName": "team-a", "priorityClassName": "research"}, "activeDeadlineSeconds": 3600, "backoffLimit": 0},
    "overlay": {
        "model": SECRET,
        "method": {
            "objective": "distill",
            "distill": {"teacher": {"uri": "hf://example/teacher", "credentialsSecret": {"name": "teacher"}}},
        },
        "dataset": {**SECRET, "eval": {"uri": "s3://team-a/eval.jsonl", **SECRET}},
        "output": SECRET,
        "resources": {"ephemeralStorage": "60Gi"},
        "pod": {
            "nodeSelector": {"example.com/pool": "train"},
            "tolerations": [{"key": "example.com/pool", "value": "train", "effect": "NoSchedule"}],
            "labels": {"example.com/team": "a"},
            "env": [{"name": "HF_HUB_OFFLINE", "value": "1"}],
            "imagePullSecrets": [{"name": "registry"}],
        },
    },
}


@pytest.mark.parametrize("case", CASES)
def test_the_manifest_is_the_golden_one(case: str) -> None:
    """`UPDATE_GOLDEN=1 pytest tests/unit/operator/test_desired_job.py` writes them anew; read the difference before committing it."""
    path = GOLDEN / f"job-{case}.yaml"
    manifest = json.loads(json.dumps(build_job(build_spec(CASES[case]), REF, 0, trainer=GANGS, reporting=REPORTING)))
    if UPDATE:
        path.write_text(yaml.safe_dump(manifest, sort_keys=False, width=140))
    assert yaml.safe_load(path.read_text()) == manifest


def test_there_is_no_golden_file_too_many() -> None:
    assert {path.name for path in GOLDEN.iterdir()} == {f"job-{case}.yaml" for case in CASES}


CACHE = replace(TRAINER, model_cache="models")
HUB = {"model": {"uri": "hf://example/model", **SECRET}, "output": SECRET, "resources": {"memory": "32Gi"}}


def test_the_model_cache_is_written_by_its_filler_and_read_by_the_trainer() -> None:
    pod = build_job(build_spec(HUB), REF, 0, trainer=CACHE, reporting=REPORTING)["spec"]["template"]["spec"]
    (filler,), (trainer,) = pod["initContainers"], pod["containers"]
    assert {"name": "model-cache", "persistentVolumeClaim": {"claimName": "models"}} in pod["volumes"]
    assert {"name": "model-cache", "mountPath": MODEL_CACHE_ROOT} in filler["volumeMounts"]
    assert {"name": "model-cache", "mountPath": MODEL_CACHE_ROOT, "readOnly": True} in trainer["volumeMounts"]
    assert filler["command"] == ["finetune-model-cache", "fill"]
    assert find_violations(pod) == []


def test_the_filler_has_the_model_s_credentials_and_nothing_else_of_the_run_s() -> None:
    pod = build_job(build_spec(HUB), REF, 0, trainer=CACHE, reporting=REPORTING)["spec"]["template"]["spec"]
    (filler,) = pod["initContainers"]
    assert [source["prefix"] for source in filler["envFrom"]] == [ENV_PREFIX_MODEL]
    assert {mount["name"] for mount in filler["volumeMounts"]} == {"work", "tmp", "model-cache"}, "no token, no claims"
    assert filler["resources"] == {"requests": {"cpu": "2", "memory": "32Gi"}, "limits": {"memory": "32Gi"}}, "no GPU of its own"


def test_trainer_and_filler_are_told_of_the_cache_alike() -> None:
    pod = build_job(build_spec(HUB), REF, 0, trainer=CACHE, reporting=REPORTING)["spec"]["template"]["spec"]
    for container in (*pod["initContainers"], *pod["containers"]):
        (config,) = [each["value"] for each in container["env"] if each["name"] == ENV_CONFIG]
        assert json.loads(config)["modelCache"] == MODEL_CACHE_ROOT


@pytest.mark.parametrize("uri", ["s3://bucket/model", "pvc://models/llama"])
def test_a_model_that_may_be_replaced_in_place_is_not_cached(uri: str) -> None:
    spec = build_spec({"model": {"uri": uri}})
    assert build_job(spec, REF, 0, trainer=CACHE, reporting=REPORTING) == build_job(spec, REF, 0, trainer=TRAINER, reporting=REPORTING)


def _action_on(exit_code: int, *, disrupted: bool, rules: list[Manifest]) -> str:
    """Return what a Job does about a failed pod: the action of the first rule that fits, as the Job controller reads them."""
    for rule in rules:
        if "onExitCodes" in rule and exit_code in rule["onExitCodes"]["values"]:
            return str(rule["action"])
        if "onPodConditions" in rule and disrupted and rule["onPodConditions"] == [{"type": "DisruptionTarget", "status": "True"}]:
            return str(rule["action"])
    return "Count"


@pytest.mark.parametrize("code", [code for code in ExitCode if code is not ExitCode.COMPLETED], ids=lambda code: code.name)
def test_the_failure_policy_is_the_table_of_exit_codes(code: ExitCode) -> None:
    expected = {"never": "FailJob", "free": "Ignore", "counted": "Count"}[OUTCOMES[code].retry]
    assert _action_on(code, disrupted=False, rules=build_failure_rules(alone=False)) == expected
    # One process alone has no other to lose, and its Job's policy stays what it was.
    alone = "Count" if code is ExitCode.PEER_LOST else expected
    assert _action_on(code, disrupted=False, rules=build_failure_rules()) == alone


@pytest.mark.parametrize(
    ("exit_code", "action"), [(ExitCode.CONFIG_INVALID, "FailJob"), (ExitCode.CRASHED, "Ignore"), (137, "Ignore"), (143, "Ignore")]
)
def test_a_disruption_is_free_unless_the_trainer_says_that_no_retry_helps(exit_code: int, action: str) -> None:
    assert _action_on(exit_code, disrupted=True, rules=build_failure_rules()) == action


def test_zero_is_in_no_rule_since_kubernetes_refuses_it() -> None:
    assert all(0 not in rule.get("onExitCodes", {}).get("values", []) for rule in build_failure_rules())


def test_a_queued_job_is_made_suspended_and_labelled() -> None:
    job = build_job(build_spec({"scheduling": {"queueName": "team-a"}}), REF, 0, trainer=TRAINER, reporting=None)
    assert job["spec"]["suspend"] is True
    assert job["metadata"]["labels"][LABEL_QUEUE_NAME] == "team-a"


def test_the_old_trainer_never_overlaps_the_new_one() -> None:
    assert build_job(build_spec(), REF, 0, trainer=TRAINER, reporting=None)["spec"]["podReplacementPolicy"] == "Failed"


def test_the_owner_controls_the_job_and_nothing_waits_for_its_deletion() -> None:
    (owner,) = build_job(build_spec(), REF, 0, trainer=TRAINER, reporting=None)["metadata"]["ownerReferences"]
    assert owner["uid"] == UID
    assert owner["controller"] is True
    assert "blockOwnerDeletion" not in owner


@given(labels=st.dictionaries(st.sampled_from(["app", "team", "example.com/x"]), st.just("mine")), spec=SPECS)
def test_a_user_s_labels_never_replace_the_operator_s(labels: dict[str, str], spec: Any) -> None:
    spec = spec.model_copy(update={"pod": spec.pod.model_copy(update={"labels": labels})})
    job = build_job(spec, REF, 3, trainer=TRAINER, reporting=None)
    for found in (job["metadata"]["labels"], job["spec"]["template"]["metadata"]["labels"]):
        assert found["app.kubernetes.io/managed-by"] == MANAGED_BY
        assert found["finetune.dev/job-uid"] == UID
        assert found["finetune.dev/attempt"] == "3"
        assert labels.items() <= found.items()


@given(name=JOB_NAMES, uid=UIDS, attempt=st.integers(0, 10_000))
def test_every_name_is_a_dns_label(name: str, uid: str, attempt: int) -> None:
    job_name = build_job_name(name, uid, attempt)
    assert len(job_name) <= 63
    assert job_name[0].isalpha()
    assert job_name[-1].isalnum()
    assert set(job_name) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")


@given(name=JOB_NAMES, uid=UIDS)
def test_the_name_is_the_same_each_time(name: str, uid: str) -> None:
    assert build_job_name(name, uid, 0) == build_job_name(name, uid, 0)


@given(name=JOB_NAMES, attempts=st.lists(st.integers(0, 10_000), min_size=2, max_size=2, unique=True))
def test_attempts_have_different_names(name: str, attempts: list[int]) -> None:
    first, second = attempts
    assert build_job_name(name, UID, first) != build_job_name(name, UID, second)


def test_a_namesake_has_another_name() -> None:
    uids = [f"5f0c2f1e-6a2b-4f0e-9d57-{number:012d}" for number in range(100)]
    assert len({build_job_name(NAME, uid, 0) for uid in uids}) == len(uids)


@given(name=JOB_NAMES, uid=UIDS)
def test_every_label_value_is_one_that_kubernetes_takes(name: str, uid: str) -> None:
    owner = JobReference(namespace=NAMESPACE, name=name, uid=uid)
    for value in build_job(build_spec(), owner, 0, trainer=TRAINER, reporting=None)["metadata"]["labels"].values():
        assert len(value) <= 63
        assert value[0].isalnum()
        assert value[-1].isalnum()


def test_settings_reach_the_pod() -> None:
    trainer = TrainerSettings(image="trainer:2", image_pull_policy="Always", grace_seconds=42)
    pod = build_job(build_spec(), REF, 0, trainer=trainer, reporting=None)["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert (container["image"], container["imagePullPolicy"], pod["terminationGracePeriodSeconds"]) == ("trainer:2", "Always", 42)


@given(name=JOB_NAMES, uid=UIDS, nodes=st.integers(2, 64))
def test_the_pods_of_several_nodes_have_names_that_are_hosts(name: str, uid: str, nodes: int) -> None:
    """Kubernetes refuses an Indexed Job whose pods' names are not labels of DNS."""
    last = f"{build_job_name(name, uid, 12, nodes=nodes)}-{nodes - 1}"
    assert len(last) <= 63
    assert re.fullmatch("[a-z0-9]([-a-z0-9]*[a-z0-9])?", last)


def test_processes_are_told_where_the_first_pod_of_their_attempt_is() -> None:
    spec = build_spec({"resources": {"gpus": 2, "nodes": 3}})
    job = build_job(spec, REF, 4, trainer=TRAINER, reporting=None)
    pod = job["spec"]["template"]["spec"]
    config = next(json.loads(each["value"]) for each in pod["containers"][0]["env"] if each["name"] == "FINETUNE_CONFIG")
    service = build_service(REF)
    assert pod["subdomain"] == service["metadata"]["name"]
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["selector"].items() <= job["spec"]["template"]["metadata"]["labels"].items()
    address = f"{job['metadata']['name']}-0.{service['metadata']['name']}.{NAMESPACE}.svc"
    assert config["group"] == {"nodes": 3, "processes": 2, "address": address, "port": service["spec"]["ports"][0]["port"]}
