"""Ways out of a tenant's namespace, tried against a real API server with the chart's roles and policies.

Each is stopped where the table says.

The table in docs/reference/escapes.md is written from :data:`ATTEMPTS`, so it lists what was tried here and nothing else.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from finetune_devcluster import Cluster
from finetune_devcluster.errors import DevClusterError
from tests.support.crds import install_crds
from tests.support.escapes import ATTEMPTS, Attempt
from tests.support.live_run import wait_until
from tests.support.manifests import build_minimal_manifest, merge
from tests.support.operator_process import install_rights, write_kubeconfig
from tests.support.replicas import install_templates

pytestmark = pytest.mark.cluster

LIMITS = {
    "finetune.dev/max-gpus": "1",
    "finetune.dev/queues": "team-a,spare",
    "finetune.dev/priority-classes": "research",
    "finetune.dev/uri-prefixes": "hf://,s3://team-a,pvc://data,https://example.com",
}


class Tenants:
    """Two namespaces with a tenant each, who have the built-in role `edit` in their own; and one who may only look."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.kubeconfigs: dict[str, Path] = {}

    def admit(self, user: str, namespace: str, role: str) -> None:
        self.kubeconfigs[user] = self.cluster.mint_user(user, namespace=namespace)
        binding = ("--namespace", namespace, "create", "rolebinding", user, f"--clusterrole={role}", f"--user={user}")
        self.cluster.kubectl(*binding)

    def try_it(self, attempt: Attempt) -> str:
        """Make the attempt; return what the API server said."""
        kubeconfig = f"--kubeconfig={self.kubeconfigs[attempt.user]}"
        stdin = json.dumps(attempt.manifest) if attempt.manifest is not None else None
        try:
            return "DONE: " + self.cluster.kubectl(*attempt.words, kubeconfig, stdin=stdin)
        except DevClusterError as error:
            return str(error)


@pytest.fixture(scope="module")
def tenants(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tenants]:
    with Cluster.up("escapes", state_root=tmp_path_factory.mktemp("escapes"), ephemeral=True) as cluster:
        install_crds(cluster)
        install_rights(cluster)
        install_templates(cluster, "tenant-roles", "tenant-limits", "tenant-children")
        tenants = Tenants(cluster)
        for namespace in ("team-a", "team-b"):
            cluster.kubectl("create", "namespace", namespace)
        cluster.kubectl("annotate", "namespace", "team-a", *(f"{key}={value}" for key, value in LIMITS.items()))
        tenants.admit("alice", "team-a", "edit")
        tenants.admit("anna", "team-a", "admin")
        tenants.admit("vera", "team-a", "view")
        tenants.admit("bob", "team-b", "edit")
        cluster.kubectl("--namespace", "team-b", "create", "secret", "generic", "s3", "--from-literal=AWS_SECRET_ACCESS_KEY=x")
        for namespace in ("team-a", "team-b"):
            manifest = build_minimal_manifest("there", namespace)
            cluster.kubectl("create", "--filename=-", stdin=json.dumps(manifest))
        wait_until(lambda: _may(tenants, "alice", "team-a"), "roles and policies are in force", 60)
        yield tenants


def _may(tenants: Tenants, user: str, namespace: str) -> bool:
    """Wait for aggregation, and for the policies: an allowed run passes and a forbidden one does not."""
    good = merge(build_minimal_manifest("trial", namespace), {"spec": {"scheduling": {"queueName": "team-a"}}})
    bad = merge(good, {"spec": {"scheduling": {"queueName": "team-b"}}})
    words = ("create", "--dry-run=server", "--filename=-")
    done = [tenants.try_it(Attempt("", user, words, "", manifest=manifest)).startswith("DONE") for manifest in (good, bad)]
    forged = merge(good, {"metadata": {"labels": {"finetune.dev/sweep-uid": "x"}}})
    return done == [True, False] and not tenants.try_it(Attempt("", user, words, "", manifest=forged)).startswith("DONE")


@pytest.mark.parametrize("attempt", ATTEMPTS, ids=lambda attempt: attempt.what)
def test_it_is_stopped_where_the_table_says(tenants: Tenants, attempt: Attempt) -> None:
    said = tenants.try_it(attempt)
    assert not said.startswith("DONE"), said
    assert attempt.says in said


ALLOWED: dict[str, dict[str, Any]] = {
    "the smallest run": {},
    "its own queue and priority": {"scheduling": {"queueName": "team-a", "priorityClassName": "research"}},
    "its own priority in the queue": {"scheduling": {"queueName": "team-a", "workloadPriorityClassName": "research"}},
    "a tracker by name": {"tracking": [{"type": "mlflow", "url": "https://mlflow.example.com"}]},
    "a teacher, a task and a benchmark of its own": {
        "method": {"objective": "distill", "distill": {"teacher": {"uri": "hf://org/teacher"}}},
        "evaluation": {
            "tasks": [{"name": "facts", "uri": "s3://team-a/facts.jsonl"}],
            "harness": [{"name": "arc_easy"}, {"name": "own", "uri": "s3://team-a/own.yaml", "datasetUri": "s3://team-a/own.jsonl"}],
        },
    },
    "its own bucket, and a claim": {"dataset": {"uri": "pvc://data/set.jsonl"}, "output": {"uri": "s3://team-a/other"}},
    "a store of its own by name": {"output": {"uri": "s3://team-a/x", "endpointUrl": "https://minio.example.com:9000"}},
}


@pytest.mark.parametrize("case", ALLOWED)
def test_what_is_a_tenant_s_own_to_do_is_not_stopped(tenants: Tenants, case: str) -> None:
    manifest = merge(build_minimal_manifest("fine", "team-a"), {"spec": ALLOWED[case]})
    attempt = Attempt("", "alice", ("create", "--dry-run=server", "--filename=-"), "", manifest=manifest)
    assert tenants.try_it(attempt).startswith("DONE")


def test_tightened_limits_leave_what_runs_alone(tenants: Tenants) -> None:
    """Or nobody could suspend it any more."""
    cluster = tenants.cluster
    manifest = merge(build_minimal_manifest("early", "team-a"), {"spec": {"scheduling": {"queueName": "spare"}}})
    cluster.kubectl("create", "--filename=-", stdin=json.dumps(manifest))
    cluster.kubectl(
        "annotate", "--overwrite", "namespace", "team-a", "finetune.dev/queues=team-a", "finetune.dev/uri-prefixes=s3://nowhere"
    )
    try:
        late = merge(manifest, {"metadata": {"name": "late"}})
        create = Attempt("", "alice", ("create", "--dry-run=server", "--filename=-"), "", manifest=late)
        wait_until(lambda: not tenants.try_it(create).startswith("DONE"), "the new limits are in force", 30)
        words = ("--namespace", "team-a", "patch", "ftj", "early", "--type=merge", '--patch={"spec": {"suspend": true}}')
        assert tenants.try_it(Attempt("", "alice", words, "")).startswith("DONE")
    finally:
        cluster.kubectl("annotate", "--overwrite", "namespace", "team-a", *(f"{key}={value}" for key, value in LIMITS.items()))


def test_a_run_that_names_no_gpus_has_one_and_is_limited_by_it(tenants: Tenants) -> None:
    """Its section `resources` is not stored, and neither is that of a sweep's template."""
    run = build_minimal_manifest("plain", "team-a")
    template = {"spec": run["spec"]}
    parameters = [{"path": "training.learningRate", "values": [1e-4, 2e-4]}]
    sweep = {**run, "kind": "FineTuneSweep", "spec": {"template": template, "parameters": parameters}}
    create = ("create", "--dry-run=server", "--filename=-")
    attempts = [Attempt("", "alice", create, "", manifest=manifest) for manifest in (run, sweep)]
    assert all(tenants.try_it(attempt).startswith("DONE") for attempt in attempts)
    annotate = ("annotate", "--overwrite", "namespace", "team-a")
    tenants.cluster.kubectl(*annotate, "finetune.dev/max-gpus=0")
    try:
        wait_until(lambda: not tenants.try_it(attempts[0]).startswith("DONE"), "the new limit is in force", 30)
        assert all("may have at most 0 GPUs" in tenants.try_it(attempt) for attempt in attempts)
    finally:
        tenants.cluster.kubectl(*annotate, f"finetune.dev/max-gpus={LIMITS['finetune.dev/max-gpus']}")


def test_the_operator_and_kubernetes_make_what_tenants_may_not(tenants: Tenants, tmp_path: Path) -> None:
    kubeconfig = write_kubeconfig(tenants.cluster, tmp_path / "kubeconfig")
    labels = {"finetune.dev/job-uid": "1"}
    pod = {"restartPolicy": "Never", "containers": [{"name": "trainer", "image": "x"}]}
    job = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": "honest", "namespace": "team-a", "labels": labels},
        "spec": {"template": {"metadata": {"labels": labels}, "spec": pod}},
    }
    tenants.cluster.kubectl("create", "--filename=-", f"--kubeconfig={kubeconfig}", stdin=json.dumps(job))
    words = ("--namespace", "team-a", "get", "pods", "--selector=finetune.dev/job-uid=1", "--output=name")
    wait_until(lambda: tenants.cluster.kubectl(*words), "the Job controller has made its pod", 30)
