"""What a tenant may try in order to get out of its namespace, and what stops it."""

import json
from dataclasses import dataclass
from typing import Any, Final

from tests.support.manifests import Manifest, build_minimal_manifest, build_sweep_manifest, merge

RBAC: Final = "RBAC: the tenant's roles"
SCHEMA: Final = "the CRD's schema"
RULES: Final = "the CRD's rules (CEL)"
LIMITS: Final = "the limits' admission policy"
CHILDREN: Final = "the children's admission policy"
RECEIVER: Final = "the report receiver"
OPERATOR: Final = "the operator: owners by UID"

_FORBIDDEN: Final = "is forbidden: User"
_UNKNOWN: Final = "unknown field"


@dataclass(frozen=True)
class Attempt:
    """One attempt."""

    what: str
    user: str
    words: tuple[str, ...]
    by: str
    says: str = ""
    manifest: Manifest | None = None


def _spec(what: str, by: str, says: str, spec: Manifest) -> Attempt:
    manifest = merge(build_minimal_manifest("escape", "team-a"), {"spec": spec})
    return Attempt(what, "alice", ("create", "--filename=-", "--validate=strict"), by, says, manifest)


def _metadata(what: str, by: str, says: str, metadata: Manifest) -> Attempt:
    manifest = merge(build_minimal_manifest("escape", "team-a"), {"metadata": metadata})
    return Attempt(what, "alice", ("create", "--filename=-"), by, says, manifest)


def _object(what: str, by: str, says: str, api: str, kind: str, metadata: Manifest) -> Attempt:
    pod = {"restartPolicy": "Never", "containers": [{"name": "trainer", "image": "x"}]}
    body: Manifest = {"apiVersion": api, "kind": kind, "metadata": {"name": "forged", "namespace": "team-a", **metadata}}
    body["spec"] = pod if kind == "Pod" else {"template": {"spec": pod}}
    return Attempt(what, "alice", ("create", "--filename=-"), by, says, body)


def _may(what: str, words: str, user: str = "alice") -> Attempt:
    return Attempt(what, user, tuple(words.split()), RBAC, "orbidden")


def _sweep(what: str, by: str, says: str, spec: Manifest) -> Attempt:
    manifest = merge(build_sweep_manifest("escape", "team-a"), {"spec": {"template": {"spec": spec}}})
    return Attempt(what, "alice", ("create", "--filename=-", "--validate=strict"), by, says, manifest)


def _later(what: str, says: str, spec: Manifest) -> Attempt:
    patch = json.dumps({"spec": spec}, separators=(",", ":"))
    words = ("--namespace", "team-a", "patch", "ftj", "there", "--type=merge", f"--patch={patch}")
    return Attempt(what, "alice", words, LIMITS, says)


def _teach(teacher: Manifest) -> Manifest:
    return {"method": {"objective": "distill", "distill": {"teacher": teacher}}}


def _track(url: str) -> Manifest:
    return {"tracking": [{"type": "mlflow", "url": url}]}


_HARNESS: Final[dict[str, Any]] = {"name": "x", "uri": "s3://team-a/x.yaml"}
_OWNER: Final[dict[str, Any]] = {"apiVersion": "finetune.dev/v1alpha1", "kind": "FineTuneJob", "name": "there", "uid": "12345678-uid"}
_STATUS: Final = '--patch={"status":{"phase":"Succeeded"}}'

ATTEMPTS: Final = (
    _may("read another tenant's runs", "--namespace team-b get ftj"),
    _may("read another tenant's Secret", "--namespace team-b get secret s3"),
    _may("list runs of all namespaces", "get ftj --all-namespaces"),
    _may("read another tenant's Jobs", "--namespace team-b get jobs"),
    _may("delete another tenant's run", "--namespace team-b delete ftj there"),
    _may("suspend another tenant's run", '--namespace team-b patch ftj there --type=merge --patch={"spec":{"suspend":true}}'),
    _may("write a status of one's own run", f"--namespace team-a patch ftj there --subresource=status --type=merge {_STATUS}"),
    _may("the same as the namespace's admin", f"--namespace team-a patch ftj there --subresource=status --type=merge {_STATUS}", "anna"),
    _may("delete a run as a viewer", "--namespace team-a delete ftj there", "vera"),
    _may("suspend a run as a viewer", '--namespace team-a patch ftj there --type=merge --patch={"spec":{"suspend":true}}', "vera"),
    _may("read the receiver's key", "--namespace finetune-system get secret finetune-operator-tls"),
    _may("take the operator's Lease", '--namespace finetune-system patch lease finetune-operator --type=merge --patch={"spec":{}}'),
    _may("have a token of the operator's account made", "--namespace finetune-system create token finetune-operator"),
    _may("raise the limits of one's namespace", "annotate namespace team-a finetune.dev/max-gpus=64 --overwrite", "anna"),
    _may("change the cluster's limits", '--namespace finetune-system patch configmap finetune-operator-limits --patch={"data":{}}'),
    _may("take a policy away", "delete validatingadmissionpolicy finetune-system-finetune-operator-limits", "anna"),
    _spec("a Secret of another namespace", SCHEMA, _UNKNOWN, {"model": {"credentialsSecret": {"name": "s3", "namespace": "team-b"}}}),
    _spec("a Secret by path", SCHEMA, "credentialsSecret.name", {"model": {"credentialsSecret": {"name": "../team-b/s3"}}}),
    _spec("a file of the node as the data", RULES, "must begin with one of", {"dataset": {"uri": "file:///etc/shadow"}}),
    _spec("a file of the node as the output", RULES, "must begin with one of", {"output": {"uri": "file:///var/lib/kubelet"}}),
    _spec("a path out of a claim", RULES, "'..'", {"dataset": {"uri": "pvc://data/../../etc"}}),
    _spec("the same, percent-encoded", RULES, "'..'", {"dataset": {"uri": "pvc://data/%2e%2e/%2E%2E/etc"}}),
    _spec("a path out of a bucket's prefix", RULES, "'..'", {"output": {"uri": "s3://team-a/../team-b/x"}}),
    _spec("credentials in a URI", RULES, "user information", {"dataset": {"uri": "https://user:word@example.com/x"}}),
    _spec("a query in a URI", RULES, "query", {"dataset": {"uri": "s3://team-a/x?endpoint=http://evil"}}),
    _spec("the metadata service as a source", RULES, "not an IP address", {"dataset": {"uri": "https://169.254.169.254/latest"}}),
    _spec("the same in decimal", RULES, "not an IP address", {"dataset": {"uri": "https://2852039166/latest"}}),
    _spec("line breaks in a URI", RULES, "white space", {"dataset": {"uri": "s3://team-a/x\nHost: evil"}}),
    _spec("the metadata service as a store", LIMITS, "endpointUrl", {"output": {"endpointUrl": "http://169.254.169.254"}}),
    _spec("the metadata service by name", LIMITS, "endpointUrl", {"output": {"endpointUrl": "http://metadata.google.internal"}}),
    _spec("the API server as a store", LIMITS, "endpointUrl", {"output": {"endpointUrl": "https://kubernetes.default.svc"}}),
    _spec("the pod's own host as a store", LIMITS, "endpointUrl", {"output": {"endpointUrl": "http://localhost:8080"}}),
    _spec("another tenant's bucket", LIMITS, "prefix", {"output": {"uri": "s3://team-b/adapters/x"}}),
    _spec("a bucket whose name begins alike", LIMITS, "prefix", {"output": {"uri": "s3://team-a-and-more/x"}}),
    _spec("a model from elsewhere", LIMITS, "prefix", {"model": {"uri": "s3://team-b/model"}}),
    _spec("another tenant's bucket as a teacher", LIMITS, "prefix", _teach({"uri": "s3://team-b/model"})),
    _spec("another tenant's bucket as a task", LIMITS, "prefix", {"evaluation": {"tasks": [{"name": "x", "uri": "s3://team-b/x.jsonl"}]}}),
    _spec(
        "another tenant's bucket as a benchmark", LIMITS, "prefix", {"evaluation": {"harness": [_HARNESS | {"uri": "s3://team-b/x.yaml"}]}}
    ),
    _spec(
        "another tenant's bucket as a benchmark's data",
        LIMITS,
        "prefix",
        {"evaluation": {"harness": [_HARNESS | {"datasetUri": "s3://team-b/x.jsonl"}]}},
    ),
    _spec("a registry of others to push to", LIMITS, "prefix", {"output": {"push": [{"uri": "oci://registry.example.com/team-b/x"}]}}),
    _spec(
        "the metadata service as a teacher's store",
        LIMITS,
        "endpointUrl",
        _teach({"uri": "s3://team-a/model", "endpointUrl": "http://metadata.google.internal"}),
    ),
    _spec(
        "the metadata service as a benchmark's store",
        LIMITS,
        "endpointUrl",
        {"evaluation": {"harness": [_HARNESS | {"endpointUrl": "http://metadata.google.internal"}]}},
    ),
    _spec("the metadata service as a tracker", LIMITS, "tracking.url", _track("http://metadata.google.internal")),
    _spec("the API server as a tracker", LIMITS, "tracking.url", _track("https://kubernetes.default.svc")),
    _spec("more GPUs than the namespace may have", LIMITS, "at most 1 GPUs", {"resources": {"gpus": 2}}),
    _spec("the same by several nodes", LIMITS, "at most 1 GPUs", {"resources": {"gpus": 1, "nodes": 2}}),
    _sweep("the same by a sweep", LIMITS, "at most 1 GPUs", {"resources": {"gpus": 2}}),
    _spec("another tenant's queue", LIMITS, "queueName", {"scheduling": {"queueName": "team-b"}}),
    _spec("a priority of the system", LIMITS, "priorityClassName", {"scheduling": {"priorityClassName": "system-node-critical"}}),
    _spec("a priority of others", LIMITS, "priorityClassName", {"scheduling": {"priorityClassName": "production"}}),
    _spec(
        "a priority of others in the queue", LIMITS, "workloadPriorityClassName", {"scheduling": {"workloadPriorityClassName": "urgent"}}
    ),
    _later("a priority of others, taken afterwards", "priorityClassName", {"scheduling": {"priorityClassName": "production"}}),
    _later("the same in the queue", "workloadPriorityClassName", {"scheduling": {"workloadPriorityClassName": "urgent"}}),
    _sweep("another tenant's queue, by a sweep", LIMITS, "queueName", {"scheduling": {"queueName": "team-b"}}),
    _sweep("another tenant's bucket, by a sweep", LIMITS, "prefix", {"output": {"uri": "s3://team-b/x"}}),
    _spec("a volume of the node", SCHEMA, _UNKNOWN, {"pod": {"volumes": [{"name": "x", "hostPath": {"path": "/"}}]}}),
    _spec("a privileged container", SCHEMA, _UNKNOWN, {"pod": {"securityContext": {"privileged": True}}}),
    _spec("the node's network", SCHEMA, _UNKNOWN, {"pod": {"hostNetwork": True}}),
    _spec("another ServiceAccount", SCHEMA, _UNKNOWN, {"pod": {"serviceAccountName": "default"}}),
    _spec("another image", SCHEMA, _UNKNOWN, {"pod": {"image": "evil"}}),
    _spec("another command", SCHEMA, _UNKNOWN, {"pod": {"command": ["sh"]}}),
    _spec("a container of one's own", SCHEMA, _UNKNOWN, {"pod": {"initContainers": [{"name": "x"}]}}),
    _spec("GPUs past the device plugin", RULES, "reserved prefix", {"pod": {"env": [{"name": "NVIDIA_VISIBLE_DEVICES", "value": "all"}]}}),
    _spec("a library before all others", RULES, "reserved prefix", {"pod": {"env": [{"name": "LD_PRELOAD", "value": "/x.so"}]}}),
    _spec("code through the interpreter", RULES, "reserved prefix", {"pod": {"env": [{"name": "PYTHONSTARTUP", "value": "/x.py"}]}}),
    _spec("another configuration", RULES, "reserved prefix", {"pod": {"env": [{"name": "FINETUNE_CONFIG", "value": "{}"}]}}),
    _spec("another API server", RULES, "reserved prefix", {"pod": {"env": [{"name": "KUBERNETES_SERVICE_HOST", "value": "x"}]}}),
    _spec("a variable from a Secret", SCHEMA, _UNKNOWN, {"pod": {"env": [{"name": "X", "valueFrom": {"secretKeyRef": {}}}]}}),
    _spec("another run's label for the pod", RULES, "reserved domain", {"pod": {"labels": {"finetune.dev/job-uid": "12345678-uid"}}}),
    _spec("another queue's label for the pod", RULES, "reserved domain", {"pod": {"labels": {"kueue.x-k8s.io/queue-name": "team-b"}}}),
    _spec("a manifest of a megabyte", SCHEMA, "Too", {"pod": {"env": [{"name": f"X{n}", "value": "x" * 4096} for n in range(250)]}}),
    _metadata(
        "a run passed off as a sweep's trial", CHILDREN, "finetune.dev/sweep-uid", {"labels": {"finetune.dev/sweep-uid": "12345678"}}
    ),
    _metadata("a run owned by another", CHILDREN, "ownerReferences", {"ownerReferences": [_OWNER]}),
    _object("a Job with a run's label", CHILDREN, "finetune.dev/job-uid", "batch/v1", "Job", {"labels": {"finetune.dev/job-uid": "1"}}),
    _object("a Job owned by a run", CHILDREN, "ownerReferences", "batch/v1", "Job", {"ownerReferences": [_OWNER]}),
    _object("a pod with a run's label", CHILDREN, "finetune.dev/job-uid", "v1", "Pod", {"labels": {"finetune.dev/job-uid": "1"}}),
)

ELSEWHERE: Final = (
    ("a report with no token, or a made-up one", RECEIVER, "test_reports_over_https"),
    ("a report with a token bound to no pod", RECEIVER, "test_reports_over_https"),
    ("a report with a token for another audience", RECEIVER, "test_reports_over_https"),
    ("a report with another run's token", RECEIVER, "test_reports_over_https"),
    ("a report by another run's pod, with a token for this run", RECEIVER, "test_reports_over_https"),
    ("a report about another run, or one of another namespace", RECEIVER, "test_reports_over_https"),
    ("a report by a pod of another namespace", RECEIVER, "test_reports_over_https"),
    ("a report sent again", RECEIVER, "test_reports_over_https"),
    ("a report by a pod that has ended", RECEIVER, "test_reports_over_https"),
    ("a report of a megabyte", RECEIVER, "test_reports_over_https"),
    ("a stranger's Job under a run's name", OPERATOR, "test_same_names"),
)
"""Tried by other tests, named here so that the table is whole."""


def render_table() -> str:
    """Return the page docs/reference/escapes.md."""
    rows = [f"| {attempt.what} | {attempt.by} |" for attempt in ATTEMPTS]
    rows += [f"| {what} | {by} |" for what, by, _ in ELSEWHERE]
    head = [
        "# Escapes",
        "",
        f"{len(rows)} ways out of a tenant's namespace that tests try on a real API server with the chart's roles and policies, and what",
        "stops each. Generated from `tests/support/escapes.py`; tried by `tests/integration/operator/test_escapes.py`, and those of the",
        "report receiver and of the operator by `test_reports_over_https.py` and `test_same_names.py`. A field that the schema does not",
        "know is refused under kubectl's strict validation, and dropped where a client asks for less. See [Tenancy](../guide/tenancy.md).",
        "",
        "| attempt | stopped by |",
        "| --- | --- |",
    ]
    return "\n".join([*head, *rows, ""])
