"""The chart, installed into a real API server by Helm: accepted, upgraded and removed."""

import base64
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from finetune_devcluster import Cluster
from finetune_devcluster.binaries import ensure_binaries

pytestmark = pytest.mark.cluster

CHART = Path(__file__).parents[3] / "charts" / "finetune-operator"
RELEASE = "finetune-operator"
IMAGES = [
    "--set-string",
    "image.repository=registry.test/operator,image.tag=1,trainer.image.repository=registry.test/trainer,trainer.image.tag=1",
]

Helm = Callable[..., str]


@pytest.fixture
def helm(control_plane: Cluster, namespace: str) -> Iterator[Helm]:
    program = ensure_binaries(["helm"])["helm"]

    def run(*words: str) -> str:
        spoken = subprocess.run(
            [program, *words, "--namespace", namespace],
            env={**os.environ, "KUBECONFIG": str(control_plane.kubeconfig)},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert spoken.returncode == 0, spoken.stderr
        return spoken.stdout

    yield run
    run("uninstall", RELEASE, "--ignore-not-found")


def may(cluster: Cluster, account: str, verb: str, resource: str, namespace: str) -> bool:
    """Ask the API server whether an account may do something: ``resource`` is ``group/resource[/subresource][=name]``."""
    path, _, name = resource.partition("=")
    group, kind, *subresource = path.split("/")
    attributes = {"verb": verb, "group": group, "resource": kind, "name": name, "namespace": namespace}
    attributes["subresource"] = subresource[0] if subresource else ""
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SubjectAccessReview",
        "spec": {"user": account, "groups": ["system:serviceaccounts", "system:authenticated"], "resourceAttributes": attributes},
    }
    answer = cluster.client.request("POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews", review)
    return bool(answer["status"]["allowed"])


def test_an_upgrade_keeps_what_the_operator_wrote_into_its_secret(control_plane: Cluster, namespace: str, helm: Helm) -> None:
    helm("install", RELEASE, str(CHART), *IMAGES)
    certificate = base64.b64encode(b"certificate").decode()
    words = ["--namespace", namespace, "patch", "secret", "finetune-operator-tls", "--type=merge"]
    control_plane.kubectl(*words, f"--patch={json.dumps({'data': {'tls.crt': certificate}})}")
    helm("upgrade", RELEASE, str(CHART), *IMAGES, "--set", "logging.level=DEBUG")
    secret = json.loads(control_plane.kubectl("--namespace", namespace, "get", "secret", "finetune-operator-tls", "--output=json"))
    assert secret["data"] == {"tls.crt": certificate}
    deployment = json.loads(control_plane.kubectl("--namespace", namespace, "get", "deployment", RELEASE, "--output=json"))
    environment = {each["name"]: each.get("value") for each in deployment["spec"]["template"]["spec"]["containers"][0]["env"]}
    assert environment["FINETUNE_LOG_LEVEL"] == "DEBUG"


def test_the_pod_is_admitted_where_the_restricted_standard_is_enforced(control_plane: Cluster, namespace: str, helm: Helm) -> None:
    control_plane.kubectl("label", "namespace", namespace, "pod-security.kubernetes.io/enforce=restricted")
    helm("install", RELEASE, str(CHART), *IMAGES)
    control_plane.kubectl(
        *("--namespace", namespace, "wait", f"deployment/{RELEASE}", "--timeout=20s", "--for=jsonpath={.status.unavailableReplicas}=1")
    )
    control_plane.kubectl("--namespace", namespace, "wait", "pod", "--all", "--for=create", "--timeout=20s")
    pods = json.loads(control_plane.kubectl("--namespace", namespace, "get", "pods", "--output=json"))["items"]
    assert len(pods) == 1
    assert pods[0]["spec"]["serviceAccountName"] == RELEASE


@pytest.mark.parametrize("watching", ["everything", "one namespace"])
def test_the_operator_may_do_its_work_and_nothing_else(control_plane: Cluster, namespace: str, helm: Helm, watching: str) -> None:
    elsewhere = "default"
    flags = [] if watching == "everything" else ["--set", f"watchNamespaces={{{namespace}}}"]
    helm("install", RELEASE, str(CHART), *IMAGES, *flags)
    account = f"system:serviceaccount:{namespace}:{RELEASE}"

    def allows(verb: str, resource: str, where: str = namespace) -> bool:
        return may(control_plane, account, verb, resource, where)

    everywhere = watching == "everything"
    for verb, resource in (
        ("watch", "finetune.dev/finetunejobs"),
        ("patch", "finetune.dev/finetunejobs/status"),
        ("patch", "finetune.dev/finetunejobs"),  # the trials of a sweep
        ("create", "batch/jobs"),
        ("list", "/pods"),
        ("create", "/services"),  # of runs of several pods
        ("create", "/events"),
    ):
        assert allows(verb, resource), f"{verb} {resource}"
        assert allows(verb, resource, elsewhere) is everywhere, f"{verb} {resource} elsewhere"
    assert allows("create", "authentication.k8s.io/tokenreviews", "")
    assert allows("patch", "/secrets=finetune-operator-tls")
    assert not allows("patch", "/secrets=finetune-operator-tls", elsewhere)
    for verb, resource in (
        ("list", "/secrets"),
        ("get", "/secrets=other"),
        ("create", "/secrets"),
        ("delete", "/secrets=finetune-operator-tls"),
        ("create", "/pods"),
        ("create", "/pods/exec"),
        ("get", "/pods/log"),
        ("create", "/serviceaccounts/token"),
        ("update", "finetune.dev/finetunejobs"),
        ("patch", "finetune.dev/finetunesweeps"),
        ("create", "coordination.k8s.io/leases"),
        ("delete", "finetune.dev/finetunejobs"),
        ("escalate", "rbac.authorization.k8s.io/clusterroles"),
        ("impersonate", "/users"),
    ):
        assert not allows(verb, resource), f"{verb} {resource}"
        assert not allows(verb, resource, elsewhere), f"{verb} {resource} elsewhere"


def test_what_is_removed_is_gone_but_the_resource_and_its_jobs_stay(control_plane: Cluster, namespace: str, helm: Helm) -> None:
    before = _list(control_plane, namespace)
    helm("install", RELEASE, str(CHART), *IMAGES)
    assert _list(control_plane, namespace) > before
    helm("uninstall", RELEASE, "--wait")
    assert _list(control_plane, namespace) == before
    assert "finetunejobs.finetune.dev" in control_plane.kubectl("get", "crds", "--output=name")


def _list(cluster: Cluster, namespace: str) -> set[str]:
    inside = cluster.kubectl(
        *("--namespace", namespace, "get", "deployments,services,secrets,serviceaccounts,roles,rolebindings", "--output=name")
    )
    outside = cluster.kubectl("get", "clusterroles,clusterrolebindings", "--output=name")
    return set(inside.split()) | {name for name in outside.split() if namespace in name}
