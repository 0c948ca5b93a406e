"""The CRD as an API server sees it: installed, listed, applied, and closed to change."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from finetune_devcluster import Cluster, DevClusterError
from tests.support.live_run import wait_until
from tests.support.manifests import Manifest, build_minimal_manifest

pytestmark = pytest.mark.cluster

FULL_SPEC: Manifest = yaml.safe_load((Path(__file__).parent / "full_spec.yaml").read_text())
COLLECTION = "/apis/finetune.dev/v1alpha1/namespaces/{}/finetunejobs"


def create(cluster: Cluster, namespace: str, spec: Manifest, name: str = "run") -> Manifest:
    created: Manifest = cluster.client.request("POST", COLLECTION.format(namespace), build_minimal_manifest(name) | {"spec": spec})
    return created


def patch(cluster: Cluster, namespace: str, path: str, value: object, *, remove: bool = False) -> Manifest:
    """Ask for one field to change, or to go, without storing it."""
    pointer = "/spec/" + path.replace(".", "/")
    operation = {"op": "remove", "path": pointer} if remove else {"op": "add", "path": pointer, "value": value}
    url = f"{COLLECTION.format(namespace)}/run?dryRun=All"
    changed: Manifest = cluster.client.request("PATCH", url, [operation], "application/json-patch+json")
    return changed


def test_the_crd_is_established_without_complaint(control_plane: Cluster) -> None:
    crd = json.loads(control_plane.kubectl("get", "crd", "finetunejobs.finetune.dev", "-o", "json"))
    conditions = {condition["type"]: condition["status"] for condition in crd["status"]["conditions"]}
    assert conditions["Established"] == "True"
    assert conditions["NamesAccepted"] == "True"
    assert conditions.get("NonStructuralSchema", "False") == "False"


def test_it_is_found_by_its_short_name_and_category(control_plane: Cluster, namespace: str) -> None:
    create(control_plane, namespace, build_minimal_manifest()["spec"])
    assert control_plane.kubectl("get", "ftj", "-n", namespace, "-o", "name").strip() == "finetunejob.finetune.dev/run"
    assert "finetunejob.finetune.dev/run" in control_plane.kubectl("get", "finetune", "-n", namespace, "-o", "name")


def test_kubectl_explains_every_field(control_plane: Cluster) -> None:
    # The API server describes a kind a while after it has begun to serve it, and kubectl keeps what it once heard.
    wait_until(lambda: "ftj" in control_plane.kubectl("api-resources", "--api-group", "finetune.dev"), "kubectl knows the kind")
    described = "apis/finetune.dev/v1alpha1"
    wait_until(lambda: described in control_plane.client.request("GET", "/openapi/v3")["paths"], "the kinds are described")
    assert "Peak learning rate" in control_plane.kubectl("explain", "ftj.spec.training.learningRate")


def test_the_columns_show_where_a_run_stands(control_plane: Cluster, namespace: str) -> None:
    create(control_plane, namespace, build_minimal_manifest()["spec"] | {"scheduling": {"queueName": "team-a"}})
    status = {
        "phase": "Running",
        "restarts": 2,
        "gpus": 4,
        "progress": {
            "percentage": 41,
            "step": 41,
            "totalSteps": 100,
            "epoch": 1.2,
            "estimatedRemainingSeconds": 90,
            "lastUpdatedTime": "2026-01-01T00:00:00Z",
        },
        "metrics": {"loss": 1.25},
        "conditions": [
            {"type": "Accepted", "status": "True", "reason": "Valid", "lastTransitionTime": "2026-01-01T00:00:00Z"},
            {"type": "Succeeded", "status": "Unknown", "reason": "Training", "lastTransitionTime": "2026-01-01T00:00:00Z"},
        ],
        "artifacts": [
            {
                "name": "adapter",
                "format": "peft",
                "uri": "s3://team-a/adapters/a/adapter",
                "digest": f"sha256:{'0' * 64}",
                "sizeBytes": 1,
                "baseModel": "hf://example/model",
                "createdTime": "2026-01-01T00:00:00Z",
            }
        ],
    }
    url = f"{COLLECTION.format(namespace)}/run/status"
    control_plane.client.request("PATCH", url, {"status": status}, "application/merge-patch+json")
    titles, row = (line.split() for line in control_plane.kubectl("get", "ftj", "-n", namespace, "-o", "wide").splitlines())
    shown = dict(zip(titles, row, strict=True))
    assert shown.pop("AGE")
    assert shown == {
        "NAME": "run",
        "PHASE": "Running",
        "PROGRESS": "41",
        "LOSS": "1.25",
        "GPUS": "4",
        "QUEUE": "team-a",
        "RESTARTS": "2",
        "ETA": "90",
        "MODEL": "hf://example/model",
        "ARTIFACT": "s3://team-a/adapters/a/adapter",
        "REASON": "Training",
    }


def test_a_status_of_a_later_release_is_kept_out_and_does_no_harm(control_plane: Cluster, namespace: str) -> None:
    """Unknown fields of status are dropped, not refused, so that an operator rolled forward and back goes on."""
    create(control_plane, namespace, build_minimal_manifest()["spec"])
    url = f"{COLLECTION.format(namespace)}/run/status"
    changed = control_plane.client.request(
        "PATCH", url, {"status": {"phase": "Running", "moonPhase": "full"}}, "application/merge-patch+json"
    )
    assert changed["status"] == {"phase": "Running", "observedGeneration": -1}


def list_leaves(value: Manifest, prefix: str = "") -> list[tuple[str, Any]]:
    """Return every field of ``value`` that holds no object of the API, by its path."""
    leaves: list[tuple[str, Any]] = []
    for name, below in value.items():
        path = f"{prefix}{name}"
        is_map = path in ("pod.nodeSelector", "pod.labels", "dataset.columns")
        leaves += list_leaves(below, f"{path}.") if isinstance(below, dict) and not is_map else [(path, below)]
    return leaves


OTHER_VALUES: dict[str, Any] = {
    "model.uri": "hf://example/other",
    "dataset.uri": "hf://example/other-data",
    "dataset.format": "text",
    "dataset.columns": {"messages": "chat"},
    "dataset.additional": [],
    "dataset.tooLong": "fail",
    "method.objective": "pretrain",
    "training.onOutOfMemory": "stepDown",
    "training.divergence.action": "fail",
    "dataset.eval.uri": "hf://example/other-eval",
    "method.adapter.type": "adalora",
    "method.adapter.targetModules": "q_proj",
    "method.adapter.init": "eva",
    "method.quantization.type": "fp4",
    "method.quantization.computeDtype": "float32",
    "training.lrScheduler": "linear",
    "training.lossOn": "all",
    "training.optimizer": "sgd",
    "training.sharding": "full",
    "resources.minGpuMemory": "48Gi",
    "resources.gpuProducts": [],
    "resources.cpu": 8,
    "resources.memory": "64Gi",
    "resources.ephemeralStorage": "200Gi",
    "resources.gpuResource": "nvidia.com/mig-1g.10gb",
    "output.uri": "s3://team-a/elsewhere",
    "pod.nodeSelector": {"pool": "b"},
    "pod.labels": {"team": "b"},
    "pod.tolerations": [],
    "pod.env": [{"name": "A", "value": "b"}],
    "pod.imagePullSecrets": [],
    "evaluation.samples.prompts": [],
    "evaluation.tasks": [],
    "evaluation.harness": [],
    "tracking": [],
    "output.merged": False,
    "output.gguf.type": "f16",
    "output.gptq.groupSize": 64,
    "output.push": [],
}
MUTABLE = {
    "suspend",
    "ttlSecondsAfterFinished",
    "activeDeadlineSeconds",
    "scheduling.priorityClassName",
    "scheduling.workloadPriorityClassName",
}
SINGLE_VALUED = {"resources.nodes"}
"""Fields that have but one value in this release, so that there is nothing to change them to."""
NOT_BESIDE_THE_OTHERS = {f"method.adapter.{name}" for name in ("initR", "targetParameters", "virtualTokens", "encoder")} | {
    "dataset.evalFraction",
    "resources.gpuClaimTemplate",
    "scheduling.gang",
}
"""Fields that exclude others of the full specification: those of other types of adapter, and what takes another's place."""
LEAVES = list_leaves(FULL_SPEC)


def change(path: str, value: Any) -> Any:
    """Return another valid value of the field."""
    if path in OTHER_VALUES:
        return OTHER_VALUES[path]
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, float)):
        return value / 2 if 0 < value < 1 else (value - 1 if value else 1)
    if path.endswith("endpointUrl"):
        return "https://other.example.com"
    return f"{value}2"


@pytest.fixture(scope="module")
def stored(control_plane: Cluster) -> str:
    """A namespace with a FineTuneJob `run` that sets every field there is."""
    name = "immutability"
    control_plane.kubectl("create", "namespace", name)
    create(control_plane, name, FULL_SPEC)
    return name


def test_the_full_spec_sets_every_field(control_plane: Cluster) -> None:
    """So that the tests below leave none out."""
    crd = json.loads(control_plane.kubectl("get", "crd", "finetunejobs.finetune.dev", "-o", "json"))
    schema = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]

    def fields(of: Manifest, prefix: str = "") -> set[str]:
        found: set[str] = set()
        for name, field in of["properties"].items():
            found |= fields(field, f"{prefix}{name}.") if "properties" in field else {f"{prefix}{name}"}
        return found

    own = {path for path in fields(schema) if path.split(".")[:1] == ["method"] and path.split(".")[1] in OF_OBJECTIVES}
    assert fields(schema) - NOT_BESIDE_THE_OTHERS - own == {path for path, _ in LEAVES}


OF_OBJECTIVES: dict[str, Manifest] = {
    "dpo": {"beta": 0.2},
    "orpo": {"beta": 0.2},
    "kto": {"beta": 0.2},
    "reward": {"centerCoefficient": 0.01},
    "distill": {"teacher": {"uri": "hf://example/teacher"}, "beta": 0.5},
    "grpo": {"rewards": [{"name": "json", "type": "json"}], "beta": 0.1},
}


@pytest.mark.parametrize("objective", OF_OBJECTIVES)
def test_the_settings_of_an_objective_cannot_be_changed(control_plane: Cluster, namespace: str, objective: str) -> None:
    settings = OF_OBJECTIVES[objective]
    create(control_plane, namespace, {**build_minimal_manifest()["spec"], "method": {"objective": objective, objective: settings}})
    field = "centerCoefficient" if objective == "reward" else "beta"
    with pytest.raises(DevClusterError) as refusal:
        patch(control_plane, namespace, f"method.{objective}.{field}", 0.3)
    assert f"spec.method.{objective}.{field} is immutable: create a new FineTuneJob" in str(refusal.value)


def test_the_template_of_a_claim_cannot_be_changed(control_plane: Cluster, namespace: str) -> None:
    create(control_plane, namespace, {**build_minimal_manifest()["spec"], "resources": {"gpuClaimTemplate": "one-gpu"}})
    with pytest.raises(DevClusterError) as refusal:
        patch(control_plane, namespace, "resources.gpuClaimTemplate", "two-gpus")
    assert "spec.resources.gpuClaimTemplate is immutable: create a new FineTuneJob" in str(refusal.value)


@pytest.mark.parametrize("path", [path for path, _ in LEAVES if path not in MUTABLE | SINGLE_VALUED])
def test_a_field_cannot_be_changed(control_plane: Cluster, stored: str, path: str) -> None:
    other = change(path, dict(LEAVES)[path])
    with pytest.raises(DevClusterError) as refusal:
        patch(control_plane, stored, path, other)
    assert f"spec.{path} is immutable: create a new FineTuneJob" in str(refusal.value)


@pytest.mark.parametrize("path", sorted(MUTABLE))
def test_the_few_fields_that_may_change_do(control_plane: Cluster, stored: str, path: str) -> None:
    other = change(path, dict(LEAVES)[path])
    changed = patch(control_plane, stored, path, other)
    for part in ["spec", *path.split(".")]:
        changed = changed[part]
    assert changed == other


OPTIONAL = [
    "model.revision",
    "model.credentialsSecret",
    "model.endpointUrl",
    "dataset.eval",
    "dataset.split",
    "training.maxSteps",
    "training.evalSteps",
    "training.neftuneNoiseAlpha",
    "training.earlyStopping",
    "resources.minGpuMemory",
    "resources.ephemeralStorage",
    "scheduling.queueName",
    "output.credentialsSecret",
]


@pytest.mark.parametrize("path", OPTIONAL)
def test_an_optional_field_cannot_be_removed(control_plane: Cluster, stored: str, path: str) -> None:
    with pytest.raises(DevClusterError, match=f"spec.{path} is immutable: create a new FineTuneJob"):
        patch(control_plane, stored, path, None, remove=True)


@pytest.mark.parametrize("path", [*OPTIONAL, "dataset.evalFraction"])
def test_an_optional_field_cannot_be_added(control_plane: Cluster, namespace: str, path: str) -> None:
    create(control_plane, namespace, build_minimal_manifest()["spec"] | {"training": {}, "resources": {}})
    value: Any = FULL_SPEC
    for part in path.split("."):
        value = 0.1 if path == "dataset.evalFraction" else value[part]
    with pytest.raises(DevClusterError, match=f"spec.{path} is immutable: create a new FineTuneJob"):
        patch(control_plane, namespace, path, value)


LEFT_OUT = ["method", "training", "evaluation", "resources", "pod"]


@pytest.mark.parametrize("name", LEFT_OUT)
def test_a_whole_section_can_neither_be_added_nor_removed(control_plane: Cluster, stored: str, namespace: str, name: str) -> None:
    create(control_plane, namespace, build_minimal_manifest()["spec"])
    refused = f"spec.{name} is immutable: create a new FineTuneJob"
    with pytest.raises(DevClusterError, match=refused):
        patch(control_plane, namespace, name, FULL_SPEC[name])
    with pytest.raises(DevClusterError, match=refused):
        patch(control_plane, stored, name, None, remove=True)


def test_an_optional_field_cannot_take_the_place_of_another(control_plane: Cluster, namespace: str) -> None:
    """As many fields before as after, and not the same ones: both are named."""
    create(control_plane, namespace, build_minimal_manifest()["spec"] | {"training": {"maxSteps": 5}})
    swapped = [{"op": "remove", "path": "/spec/training/maxSteps"}, {"op": "add", "path": "/spec/training/evalSteps", "value": 5}]
    url = f"{COLLECTION.format(namespace)}/run?dryRun=All"
    with pytest.raises(DevClusterError) as refusal:
        control_plane.client.request("PATCH", url, swapped, "application/json-patch+json")
    assert "spec.training.maxSteps is immutable: create a new FineTuneJob" in str(refusal.value)
    assert "spec.training.evalSteps is immutable: create a new FineTuneJob" in str(refusal.value)


def test_every_mutable_field_can_be_removed(control_plane: Cluster, stored: str) -> None:
    for path in sorted(MUTABLE):
        patch(control_plane, stored, path, None, remove=True)


@pytest.mark.parametrize("spec", [build_minimal_manifest()["spec"], FULL_SPEC], ids=["minimal", "full"])
@pytest.mark.parametrize("server_side", [True, False], ids=["server-side", "client-side"])
def test_applying_twice_changes_nothing(control_plane: Cluster, namespace: str, spec: Manifest, server_side: bool) -> None:
    text = json.dumps(build_minimal_manifest("run", namespace) | {"spec": spec})
    apply = ["apply", *(["--server-side"] if server_side else []), "-f", "-"]
    control_plane.kubectl(*apply, stdin=text)

    def read() -> Manifest:
        body: Manifest = json.loads(control_plane.kubectl("get", "ftj", "run", "-n", namespace, "-o", "json"))
        return body

    first = read()
    control_plane.kubectl("diff", *(["--server-side"] if server_side else []), "-f", "-", stdin=text)
    control_plane.kubectl(*apply, stdin=text)
    # No operator has written a status here: the server stores its default of one at the second write, and nothing at the third.
    second = read()
    assert (second["spec"], second["status"]) == (first["spec"], first["status"])
    control_plane.kubectl(*apply, stdin=text)
    third = read()
    assert third["metadata"]["resourceVersion"] == second["metadata"]["resourceVersion"]
    assert third["metadata"]["generation"] == 1
