"""What the chart installs, and that the operator understands it."""

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from finetune_api.defaults import DefaultsByNamespace, PlatformDefaults
from finetune_api.names import ENV_PREFIX_MODEL, LABEL_MANAGED_BY, MANAGED_BY, MODEL_CACHE_ROOT
from finetune_operator.intake import SELECTORS
from finetune_operator.kube.client import FENCE_WORDS
from finetune_operator.settings import OperatorSettings, TracingSettings, TrainerSettings, read_settings
from tests.support.pod_security import find_violations
from tests.unit.chart.conftest import CHART, IMAGES, Helm, Render

WATCHING = [
    {"apiGroups": ["finetune.dev"], "resources": ["finetunesweeps"], "verbs": ["get", "list", "watch"]},
    {"apiGroups": ["finetune.dev"], "resources": ["finetunejobs"], "verbs": ["get", "list", "watch", "create", "patch"]},
    {"apiGroups": ["finetune.dev"], "resources": ["finetunejobs/status", "finetunesweeps/status"], "verbs": ["get", "patch"]},
    {"apiGroups": ["batch"], "resources": ["jobs"], "verbs": ["get", "list", "watch", "create", "patch", "delete"]},
    {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"]},
    {"apiGroups": [""], "resources": ["services"], "verbs": ["get", "create"]},
    {"apiGroups": ["kueue.x-k8s.io"], "resources": ["workloads"], "verbs": ["get", "list", "watch", "patch"]},
    {"apiGroups": ["visibility.kueue.x-k8s.io"], "resources": ["localqueues/pendingworkloads"], "verbs": ["get"]},
    {"apiGroups": [""], "resources": ["events"], "verbs": ["list", "watch", "create", "patch"]},
]
NODES = [{"apiGroups": [""], "resources": ["nodes"], "verbs": ["list"]}]
AUTHENTICATING = [{"apiGroups": ["authentication.k8s.io"], "resources": ["tokenreviews"], "verbs": ["create"]}]
OWN_SECRET = [
    {"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["finetune-operator-tls"], "verbs": ["get", "update", "patch"]}
]
OWN_LEASE = [
    {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "resourceNames": ["finetune-operator"], "verbs": ["get", "patch"]},
]
ASKING = [{"apiGroups": ["authorization.k8s.io"], "resources": ["subjectaccessreviews"], "verbs": ["create"]}]
EVERYTHING = {
    "watchNamespaces": ["team-a", "team-b"],
    "imagePullSecrets": [{"name": "registry"}],
    "podAnnotations": {"example.com/a": "b"},
    "podLabels": {"team": "platform"},
    "priorityClassName": "system-cluster-critical",
    "nodeSelector": {"kubernetes.io/os": "linux"},
    "tolerations": [{"key": "control", "operator": "Exists"}],
    "affinity": {"nodeAffinity": {}},
    "extraEnv": [{"name": "FINETUNE_WORKERS", "value": "32"}],
    "serviceAccount": {"annotations": {"example.com/role": "r"}},
    "development": {"simulatedGpus": True},
    "logging": {"level": "DEBUG", "format": "text"},
    "kueue": {"enabled": True, "defaultQueue": "team"},
    "accounting": {"gpuPrices": {"nvidia.com/gpu": 2.5}},
    "defaults": {"cluster": {"nodeSelector": {"pool": "gpu"}}, "namespaces": {"team-a": {"queueName": "team-a"}}},
    "tracing": {
        "endpoint": "http://collector.example:4318",
        "samplingRatio": 0.25,
        "trainerHeadersSecret": {"name": "otlp", "key": "auth"},
    },
}
TRACING = TracingSettings("http://collector.example:4318", 0.25, trainer_secret="otlp", trainer_secret_key="auth")


def find_one(objects: list[dict[str, Any]], kind: str, namespace: str | None = None) -> dict[str, Any]:
    found = [each for each in objects if each["kind"] == kind and namespace in (None, each["metadata"].get("namespace"))]
    assert len(found) == 1, f"{len(found)} of {kind}"
    return found[0]


def is_for_people(role: dict[str, Any]) -> bool:
    return any(key.startswith("rbac.authorization.k8s.io/aggregate-to-") for key in role["metadata"].get("labels", {}))


def collect_rules(objects: list[dict[str, Any]]) -> dict[tuple[str, str | None], list[dict[str, Any]]]:
    roles = [each for each in objects if each["kind"] in ("Role", "ClusterRole") and not is_for_people(each)]
    return {(each["kind"], each["metadata"].get("namespace")): each["rules"] for each in roles}


def read_environment(objects: list[dict[str, Any]]) -> dict[str, str]:
    container = find_one(objects, "Deployment")["spec"]["template"]["spec"]["containers"][0]
    return {
        each["name"]: each["value"] if "value" in each else _FIELDS[each["valueFrom"]["fieldRef"]["fieldPath"]] for each in container["env"]
    }


_FIELDS = {"metadata.namespace": "finetune-system", "metadata.name": "finetune-operator-abc", "status.podIP": "10.0.0.7"}
"""What the downward API says of the operator's pod."""


@pytest.mark.parametrize("values", [{}, EVERYTHING, {"reports": {"enabled": False}}], ids=["defaults", "everything", "no-reports"])
def test_lint(helm: Helm, values: dict[str, Any]) -> None:
    spoken = helm("lint", "--strict", str(CHART), values={**IMAGES, **values})
    assert spoken.returncode == 0, spoken.stdout + spoken.stderr


def test_the_values_of_the_guide_to_a_shared_cluster_render_and_the_operator_understands_them(render: Render) -> None:
    page = (CHART.parents[1] / "docs" / "guide" / "shared-cluster.md").read_text()
    values = yaml.safe_load(page.partition("```yaml\n")[2].partition("```")[0])
    objects = render(values)
    settings = read_settings(read_environment(objects))
    assert settings.gpu_prices == {"nvidia.com/gpu": 2.5}
    assert settings.defaults.of("team-a").model_cache == "models"
    assert {each["metadata"]["namespace"] for each in objects if each["kind"] == "LocalQueue"} == {"team-a", "team-b"}
    assert find_one(objects, "ConfigMap")["data"]["priorityClasses"] == "research,urgent"


def test_rights_in_the_whole_cluster_are_these_and_no_others(render: Render) -> None:
    assert collect_rules(render()) == {
        ("ClusterRole", None): WATCHING + NODES + AUTHENTICATING,
        ("Role", "finetune-system"): OWN_SECRET + OWN_LEASE,
    }


def test_rights_in_some_namespaces_are_these_and_no_others(render: Render) -> None:
    assert collect_rules(render({"watchNamespaces": ["team-a", "team-b"]})) == {
        ("ClusterRole", None): AUTHENTICATING,
        ("Role", "team-a"): WATCHING,
        ("Role", "team-b"): WATCHING,
        ("Role", "finetune-system"): OWN_SECRET + OWN_LEASE,
    }


def test_without_reports_a_namespaced_install_has_no_right_in_the_cluster(render: Render) -> None:
    objects = render({"watchNamespaces": ["team-a"], "reports": {"enabled": False}, "tenancy": {"roles": False}})
    assert collect_rules(objects) == {("Role", "team-a"): WATCHING, ("Role", "finetune-system"): OWN_LEASE}
    assert not {each["kind"] for each in objects} & {"Service", "Secret", "ClusterRole", "ClusterRoleBinding"}


def test_nodes_are_read_only_where_that_is_wanted_and_the_install_is_for_all(render: Render) -> None:
    for values in ({"nodeCheck": {"enabled": False}}, {"watchNamespaces": ["team-a"]}):
        objects = render(values)
        assert not [rule for rules in collect_rules(objects).values() for rule in rules if "nodes" in rule["resources"]]
        assert read_settings(read_environment(objects)).node_check is False
    assert read_settings(read_environment(render())).node_check is True


def test_without_kueue_there_is_no_right_to_its_objects(render: Render) -> None:
    objects = render({"kueue": {"enabled": False}})
    groups = {group for rules in collect_rules(objects).values() for rule in rules for group in rule["apiGroups"]}
    assert not [group for group in groups if "kueue" in group]
    assert read_environment(objects)["FINETUNE_KUEUE"] == "false"


def test_pod_groups_are_made_only_where_coscheduling_is_named(render: Render) -> None:
    named = {"gangScheduling": {"volcano": {"schedulerName": "volcano"}, "coscheduling": {"schedulerName": "gangs"}}}
    rule = {"apiGroups": ["scheduling.x-k8s.io"], "resources": ["podgroups"], "verbs": ["get", "create"]}
    for values, schedulers in (({}, {}), (named, {"volcano": "volcano", "coscheduling": "gangs"})):
        objects = render(values)
        assert read_settings(read_environment(objects)).trainer.gang_schedulers == schedulers
        rules = [each for rules in collect_rules(objects).values() for each in rules]
        assert (rule in rules) == bool(schedulers)


@pytest.mark.parametrize("values", [{}, EVERYTHING], ids=["defaults", "everything"])
def test_every_role_is_bound_to_the_operator_alone(render: Render, values: dict[str, Any]) -> None:
    objects = render(values)
    subject = {"kind": "ServiceAccount", "name": "finetune-operator", "namespace": "finetune-system"}
    roles = {
        (each["kind"], each["metadata"]["name"], each["metadata"].get("namespace"))
        for each in objects
        if each["kind"].endswith("Role") and not is_for_people(each)
    }
    bound = set()
    for each in objects:
        if each["kind"].endswith("RoleBinding"):
            assert each["subjects"] == [subject]
            bound.add((each["roleRef"]["kind"], each["roleRef"]["name"], each["metadata"].get("namespace")))
    assert bound == roles
    assert find_one(objects, "Deployment")["spec"]["template"]["spec"]["serviceAccountName"] == subject["name"]


def test_what_the_operator_watches_it_may_watch() -> None:
    allowed = {
        (rule["apiGroups"][0], resource) for rule in WATCHING for resource in rule["resources"] if {"list", "watch"} <= set(rule["verbs"])
    }
    watched = {(resource.group, resource.plural) for resource in SELECTORS} | {("kueue.x-k8s.io", "workloads")}
    assert watched == allowed


@pytest.mark.parametrize("values", [{}, EVERYTHING], ids=["defaults", "everything"])
def test_the_pod_is_restricted(render: Render, values: dict[str, Any]) -> None:
    pod = find_one(render(values), "Deployment")["spec"]["template"]["spec"]
    assert find_violations(pod) == []
    (container,) = pod["containers"]
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert container["resources"]["requests"]
    assert container["resources"]["limits"]["memory"]


def test_of_several_operators_one_leads(render: Render) -> None:
    objects = render({"replicas": 2})
    spec = find_one(objects, "Deployment")["spec"]
    assert spec["replicas"] == 2
    assert read_environment(objects)["FINETUNE_LEASE"] == "finetune-operator"
    labels = spec["selector"]["matchLabels"]
    (term,) = spec["template"]["spec"]["affinity"]["podAntiAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"]
    assert term["podAffinityTerm"]["labelSelector"]["matchLabels"] == labels
    budget = find_one(objects, "PodDisruptionBudget")["spec"]
    assert (budget["maxUnavailable"], budget["selector"]["matchLabels"]) == (1, labels)


def test_one_operator_may_be_drained(render: Render) -> None:
    assert "PodDisruptionBudget" not in {each["kind"] for each in render()}


def test_the_secret_is_made_empty(render: Render) -> None:
    secret = find_one(render(), "Secret")
    assert secret["metadata"]["name"] == "finetune-operator-tls"
    assert secret.keys() == {"apiVersion", "kind", "metadata", "type"}


@pytest.mark.parametrize("release", ["finetune-operator", "prod", "a" * 53])
def test_reports_reach_the_operator(render: Render, release: str) -> None:
    objects = render(release=release)
    service, deployment = find_one(objects, "Service"), find_one(objects, "Deployment")
    template = deployment["spec"]["template"]
    (port,) = service["spec"]["ports"]
    address = f"{service['metadata']['name']}.finetune-system.svc:{port['port']}"
    environment = read_environment(objects)
    assert environment["FINETUNE_REPORT_SERVICE"] == address
    assert service["spec"]["selector"].items() <= template["metadata"]["labels"].items()
    ports = {each["name"]: each["containerPort"] for each in template["spec"]["containers"][0]["ports"]}
    assert str(ports[port["targetPort"]]) == environment["FINETUNE_REPORT_PORT"]
    assert len(service["metadata"]["name"]) <= 63


def test_the_operator_understands_its_environment(render: Render) -> None:
    assert read_settings(read_environment(render())) == OperatorSettings(
        trainer=TrainerSettings(
            image="registry.test/finetune-trainer:1.2.3",
            image_pull_policy="IfNotPresent",
            grace_seconds=300,
            simulated_gpus=False,
            report_service="finetune-operator.finetune-system.svc:8443",
        ),
        namespace="finetune-system",
        tls_secret="finetune-operator-tls",
        node_check=True,
        lease="finetune-operator",
        identity="finetune-operator-abc",
        report_address="10.0.0.7:8443",
    )


def test_every_value_reaches_the_operator(render: Render) -> None:
    values = EVERYTHING | {
        "trainer": {"image": {"digest": f"sha256:{'0' * 64}", "pullPolicy": "Always"}, "terminationGracePeriodSeconds": 1000000 // 100},
        "reports": {"enabled": False},
    }
    assert read_settings(read_environment(render(values))) == OperatorSettings(
        trainer=TrainerSettings(
            image=f"registry.test/finetune-trainer@sha256:{'0' * 64}",
            image_pull_policy="Always",
            grace_seconds=10000,
            default_queue="team",
            simulated_gpus=True,
            report_service="",
            tracing=TRACING,
        ),
        namespace="finetune-system",
        watch_namespaces=("team-a", "team-b"),
        tls_secret="finetune-operator-tls",
        lease="finetune-operator",
        identity="finetune-operator-abc",
        report_address="10.0.0.7:8443",
        log_level="DEBUG",
        log_format="text",
        workers=32,
        gpu_prices={"nvidia.com/gpu": 2.5},
        defaults=DefaultsByNamespace.model_validate(EVERYTHING["defaults"]),
    )


def test_the_api_server_fences_all_that_the_operator_writes(render: Render) -> None:
    """But for the Lease itself and the certificate's Secret, which any replica may renew."""
    objects = render()
    (policy,) = [each for each in objects if each["kind"] == "ValidatingAdmissionPolicy" and each["metadata"]["name"].endswith("-fence")]
    fenced = {group for rule in policy["spec"]["matchConstraints"]["resourceRules"] for group in rule["apiGroups"]}
    written = {
        group
        for (kind, _), rules in collect_rules(objects).items()
        for rule in rules
        if kind == "ClusterRole" and {"create", "patch", "update", "delete"} & set(rule["verbs"])
        for group in rule["apiGroups"]
    }
    assert fenced == written - {"authentication.k8s.io"}
    assert FENCE_WORDS in policy["spec"]["validations"][0]["messageExpression"]
    assert policy["spec"]["failurePolicy"] == "Fail"
    assert not [each for each in render({"serverSideFence": False}) if each["metadata"]["name"].endswith("-fence")]


def test_nobody_s_role_writes_a_status(render: Render) -> None:
    roles = [each for each in render() if is_for_people(each)]
    assert len(roles) == 3
    for rule in (rule for role in roles for rule in role["rules"]):
        assert rule["apiGroups"] == ["finetune.dev"]
        writes = set(rule["verbs"]) - {"get", "list", "watch"}
        assert not (writes and any("/" in resource for resource in rule["resources"]))


def test_every_limit_reaches_its_policy(render: Render) -> None:
    limits = {"maxGpus": 8, "queues": ["a", "b"], "priorityClasses": ["c"], "uriPrefixes": ["hf://"], "endpoints": ["minio.svc"]}
    data = find_one(render({"tenancy": {"limits": limits}}), "ConfigMap")["data"]
    assert data == {"maxGpus": "8", "queues": "a,b", "priorityClasses": "c", "uriPrefixes": "hf://", "endpoints": "minio.svc"}
    assert set(find_one(render(), "ConfigMap")["data"].values()) == {""}
    assert not [each for each in render({"tenancy": {"policies": False}}) if each["kind"] == "ConfigMap"]


def test_policies_of_the_network_are_there_when_asked_for(render: Render) -> None:
    """What they let through is held by tests/integration/chart/test_network_policies.py."""
    assert not [each for each in render() if each["kind"] == "NetworkPolicy"]
    policies = _policies(render, watchNamespaces=["team-a", "team-b"])
    assert policies.keys() == {"finetune-system", "team-a", "team-b"}
    assert policies["finetune-system"]["policyTypes"] == ["Ingress"], "where the operator may go is said by values"
    assert all("from" not in rule for rule in policies["finetune-system"]["ingress"] if rule["ports"][0]["port"] != 8443)
    assert policies["team-a"]["podSelector"]["matchLabels"] == {LABEL_MANAGED_BY: MANAGED_BY}


def test_blocked_addresses_are_sorted_by_their_family(render: Render) -> None:
    """An exception of the other family is refused by the API server."""
    spec = _policies(render, blocked=["10.0.0.0/8", "fd00::/8", "169.254.0.0/16"], trainerNamespaces=["team-a"])["team-a"]
    blocks = [peer["ipBlock"] for rule in spec["egress"] for peer in rule.get("to", ()) if "ipBlock" in peer]
    assert {each["cidr"]: each["except"] for each in blocks} == {"0.0.0.0/0": ["10.0.0.0/8", "169.254.0.0/16"], "::/0": ["fd00::/8"]}


def test_where_all_addresses_are_blocked_no_rule_is_left_that_lets_all_through(render: Render) -> None:
    spec = _policies(render, blocked=["0.0.0.0/0", "::/0"], trainerNamespaces=["team-a"])["team-a"]
    assert "ipBlock" not in str(spec)
    assert all(rule.get("to") or {port["port"] for port in rule["ports"]} == {53} for rule in spec["egress"])


def _policies(render: Render, watchNamespaces: Sequence[str] = (), **values: Any) -> dict[str, Any]:  # noqa: N803  as the chart writes it
    rendered = render({"networkPolicy": {"enabled": True, **values}, "watchNamespaces": list(watchNamespaces)})
    return {each["metadata"]["namespace"]: each["spec"] for each in rendered if each["kind"] == "NetworkPolicy"}


def test_probes_ask_the_health_port(render: Render) -> None:
    objects = render()
    container = find_one(objects, "Deployment")["spec"]["template"]["spec"]["containers"][0]
    ports = {each["name"]: str(each["containerPort"]) for each in container["ports"]}
    for probe, path in (("livenessProbe", "/healthz"), ("readinessProbe", "/readyz")):
        get = container[probe]["httpGet"]
        assert get["path"] == path
        assert ports[get["port"]] == read_environment(objects)["FINETUNE_HEALTH_PORT"]


def test_the_crds_are_the_generated_ones() -> None:
    generated = {path.name: path.read_text() for path in (Path(__file__).parents[3] / "crds").glob("*.yaml")}
    assert {path.name: path.read_text() for path in (CHART / "crds").glob("*.yaml")} == generated


@pytest.mark.parametrize(
    ("values", "fault"),
    [
        ({"replicas": 0}, "replicas"),
        ({"trainer": {"image": {"repo": "x"}}}, "repo"),
        ({"logging": {"level": "LOUD"}}, "/logging/level"),
        ({"watchNamespaces": "team-a"}, "/watchNamespaces"),
        ({"watchNamespaces": ["Team A"]}, "/watchNamespaces/0"),
        ({"trainer": {"terminationGracePeriodSeconds": 0}}, "/trainer/terminationGracePeriodSeconds"),
        ({"development": {"simulatedGpus": "yes"}}, "/development/simulatedGpus"),
        ({"image": {"digest": "latest"}}, "/image/digest"),
        ({"tracing": {"endpoint": "collector:4317"}}, "/tracing/endpoint"),
        ({"tracing": {"endpoint": "https://user:password@collector"}}, "/tracing/endpoint"),
        ({"tracing": {"samplingRatio": 2}}, "/tracing/samplingRatio"),
    ],
)
def test_wrong_values_are_refused_by_name(helm: Helm, values: dict[str, Any], fault: str) -> None:
    spoken = helm("template", "x", str(CHART), "--kube-version", "1.35.0", values=values)
    assert spoken.returncode != 0
    assert fault in spoken.stderr.replace(".", "/") or fault in spoken.stderr


@pytest.mark.parametrize("missing", ["image", "trainer.image"])
def test_a_missing_image_is_asked_for(helm: Helm, missing: str) -> None:
    values = {key: value for key, value in IMAGES.items() if key != missing.split(".", maxsplit=1)[0]}
    spoken = helm("template", "x", str(CHART), "--kube-version", "1.35.0", values=values)
    assert spoken.returncode != 0
    assert f"{missing}.repository is not set" in spoken.stderr


def test_schema_and_values_have_the_same_fields() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    values = yaml.safe_load((CHART / "values.yaml").read_text())

    def fields_of_schema(node: dict[str, Any], prefix: str = "") -> set[str]:
        if "$ref" in node:
            node = schema["definitions"][node["$ref"].rsplit("/", 1)[1]]
        found = set()
        for name, child in node.get("properties", {}).items():
            found |= {prefix + name} | fields_of_schema(child, f"{prefix}{name}.")
        return found

    def fields_of_values(node: object, prefix: str = "") -> set[str]:
        if not isinstance(node, dict) or prefix in ("resources.", "monitoring.dashboard.labels."):
            return set()
        return {field for name, child in node.items() for field in {prefix + name} | fields_of_values(child, f"{prefix}{name}.")}

    inside_lists = {"imagePullSecrets.name", "extraEnv.name"}
    given_or_absent = {field for field in fields_of_schema(schema) if field.startswith("defaults.cluster.")}  # nothing is not an empty text
    assert fields_of_schema(schema) - inside_lists - given_or_absent == fields_of_values(values)


def test_the_chart_knows_every_default_of_the_platform() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    assert set(schema["definitions"]["defaults"]["properties"]) == {field.alias for field in PlatformDefaults.model_fields.values()}


def test_one_registry_serves_both_images(helm: Helm) -> None:
    values = {"global": {"imageRegistry": "registry.internal:5000/mirror"}, "trainer": {"image": {"repository": "ml/trainer"}}}
    spoken = helm("template", "x", str(CHART), "--kube-version", "1.35.0", values=values)
    assert spoken.returncode == 0, spoken.stderr
    objects = [each for each in yaml.safe_load_all(spoken.stdout) if each]
    container = find_one(objects, "Deployment")["spec"]["template"]["spec"]["containers"][0]
    assert container["image"] == "registry.internal:5000/mirror/finetune-operator:0.0.0-dev"
    assert read_environment(objects)["FINETUNE_TRAINER_IMAGE"] == "registry.internal:5000/mirror/ml/trainer:0.0.0-dev"


def test_secrets_for_pulling_add_up(render: Render) -> None:
    values = {"global": {"imagePullSecrets": [{"name": "a"}]}, "imagePullSecrets": [{"name": "b"}, {"name": "a"}]}
    assert find_one(render(values), "Deployment")["spec"]["template"]["spec"]["imagePullSecrets"] == [{"name": "a"}, {"name": "b"}]


def test_common_labels_are_on_every_object_but_select_nothing(render: Render) -> None:
    objects = render({"commonLabels": {"team": "platform"}})
    assert [each["kind"] for each in objects if each["metadata"].get("labels", {}).get("team") != "platform"] == []
    assert "team" not in find_one(objects, "Deployment")["spec"]["selector"]["matchLabels"]


def test_a_spread_without_a_selector_is_over_the_operators_pods(render: Render) -> None:
    constraint = {"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway"}
    own = constraint | {"labelSelector": {"matchLabels": {"a": "b"}}}
    spec = find_one(render({"topologySpreadConstraints": [constraint, own]}), "Deployment")["spec"]
    labels = spec["selector"]["matchLabels"]
    assert spec["template"]["spec"]["topologySpreadConstraints"] == [constraint | {"labelSelector": {"matchLabels": labels}}, own]


def test_a_cluster_queue_has_a_local_one_in_each_of_its_namespaces(render: Render) -> None:
    queue = {"name": "research", "flavor": "h100", "quotas": {"cpu": 8, "nvidia.com/gpu": 2}, "namespaces": ["a", "b"]}
    objects = render({"kueue": {"flavors": [{"name": "h100", "nodeLabels": {"gpu": "h100"}}], "clusterQueues": [queue]}})
    assert find_one(objects, "ResourceFlavor")["spec"] == {"nodeLabels": {"gpu": "h100"}}
    spec = find_one(objects, "ClusterQueue")["spec"]
    (group,) = spec["resourceGroups"]
    assert group["coveredResources"] == [each["name"] for each in group["flavors"][0]["resources"]] == ["cpu", "nvidia.com/gpu"]
    assert spec["namespaceSelector"]["matchExpressions"][0]["values"] == ["a", "b"]
    local = {each["metadata"]["namespace"]: each["spec"]["clusterQueue"] for each in objects if each["kind"] == "LocalQueue"}
    assert local == {"a": "research", "b": "research"}


PULL = {"namespace": "team-a", "claim": "models", "model": "hf://example/model", "revision": "v1", "credentialsSecret": "hf"}


def test_a_model_is_pulled_by_a_job_of_the_trainers_image_with_no_rights_and_no_gpu(render: Render) -> None:
    job = find_one(render({"modelCache": {"pulls": [PULL]}}), "Job", "team-a")
    pod = job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert find_violations(pod) == []
    assert pod["automountServiceAccountToken"] is False
    assert container["command"] == ["finetune-model-cache", "pull", "hf://example/model", "--revision=v1"]
    assert container["envFrom"] == [{"prefix": ENV_PREFIX_MODEL, "secretRef": {"name": "hf"}}]
    assert container["image"] == "registry.test/finetune-trainer:1.2.3"
    assert {"name": "model-cache", "mountPath": MODEL_CACHE_ROOT} in container["volumeMounts"]
    assert not [resource for amounts in container["resources"].values() for resource in amounts if "/" in resource]


def test_another_model_makes_another_pull_and_the_same_one_does_not(render: Render) -> None:
    def name_of(**more: str) -> str:
        return str(find_one(render({"modelCache": {"pulls": [{**PULL, **more}]}}), "Job")["metadata"]["name"])

    assert name_of() == name_of()
    assert name_of() != name_of(revision="v2")


def test_the_crds_can_be_shown_and_applied_in_one_go(helm: Helm) -> None:
    """`helm show crds` joins files as they are: without a line of `---` in each, YAML readers see the last one only."""
    program = helm("version").args[0]
    spoken = subprocess.run([program, "show", "crds", str(CHART)], capture_output=True, text=True, timeout=60, check=True)
    names = [each["metadata"]["name"] for each in yaml.safe_load_all(spoken.stdout) if each]
    assert names == ["finetunejobs.finetune.dev", "finetunesweeps.finetune.dev"]


def test_the_page_adds_one_right_a_service_and_what_the_operator_is_told(render: Render) -> None:
    before, after = render(), render({"page": {"enabled": True}})
    added = [rule for rule in collect_rules(after)["ClusterRole", None] if rule not in collect_rules(before)["ClusterRole", None]]
    assert added == ASKING
    assert collect_rules(after)["Role", "finetune-system"] == collect_rules(before)["Role", "finetune-system"]
    assert [each["metadata"]["name"] for each in after if each["kind"] == "Service"].count("finetune-operator-page") == 1
    settings = read_settings(read_environment(after))
    assert settings.page_service == "finetune-operator-page.finetune-system.svc:443"
    assert not read_settings(read_environment(before)).page_service


def test_headers_for_spans_come_from_a_secret_and_trainers_are_only_told_a_name(render: Render) -> None:
    tracing = {"endpoint": "http://collector:4318", "headersSecret": {"name": "own"}, "trainerHeadersSecret": {"name": "theirs"}}
    container = find_one(render({"tracing": tracing}), "Deployment")["spec"]["template"]["spec"]["containers"][0]
    env = {each["name"]: each for each in container["env"]}
    assert env["FINETUNE_TRACING_HEADERS"]["valueFrom"] == {"secretKeyRef": {"name": "own", "key": "headers"}}
    assert env["FINETUNE_TRACING_TRAINER_SECRET"]["value"] == "theirs"
    assert not [name for name in read_environment(render()) if "TRACING" in name]


def test_what_is_said_of_the_pods_reaches_them(render: Render) -> None:
    values = EVERYTHING | {"deploymentAnnotations": {"example.com/owner": "platform"}, "resources": {"limits": {"memory": "2Gi"}}}
    objects = render(values)
    deployment, account = find_one(objects, "Deployment"), find_one(objects, "ServiceAccount")
    template = deployment["spec"]["template"]
    pod = template["spec"]
    assert deployment["metadata"]["annotations"] == values["deploymentAnnotations"]
    assert template["metadata"]["annotations"] == values["podAnnotations"]
    assert template["metadata"]["labels"].items() >= values["podLabels"].items()
    assert account["metadata"]["annotations"] == values["serviceAccount"]["annotations"]
    for name in ("priorityClassName", "nodeSelector", "tolerations", "affinity"):
        assert pod[name] == values[name]
    assert pod["containers"][0]["resources"]["limits"]["memory"] == "2Gi"


def test_affinity_of_ones_own_takes_the_place_of_ours(render: Render) -> None:
    own = {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": []}}
    pod = find_one(render({"replicas": 3, "affinity": own}), "Deployment")["spec"]["template"]["spec"]
    assert pod["affinity"] == own
