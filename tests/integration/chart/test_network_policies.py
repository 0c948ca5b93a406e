"""Who reaches whom under the chart's NetworkPolicies, as a real API server keeps them.

Their enforcement is a network plugin's; what is held here is that they say what operator and trainers need, and nothing else.
"""

import itertools
import json
import os
import subprocess
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import pytest
import yaml

from finetune_api.names import RENDEZVOUS_PORT
from finetune_devcluster import Cluster
from finetune_devcluster.binaries import ensure_binaries
from finetune_operator.desired.job import build_job
from tests.support.network_policies import Attempt, Peer, judge
from tests.support.release import CHART
from tests.support.world import REF, TRAINER, build_spec

pytestmark = pytest.mark.cluster

API_SERVER: Final = Peer("10.0.0.10")


def _pods(namespace: str, app: str) -> dict[str, Any]:
    names = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}}}
    return {**names, "podSelector": {"matchLabels": {"app": app}}}


VALUES: Final[dict[str, Any]] = {
    "image": {"repository": "registry.test/operator", "tag": "1"},
    "trainer": {"image": {"repository": "registry.test/trainer", "tag": "1"}},
    "page": {"enabled": True},
    "networkPolicy": {
        "enabled": True,
        # The addresses of nodes, pods and Services beside the metadata services.
        "blocked": ["169.254.0.0/16", "10.0.0.0/8", "fd00::/8"],
        "trainerEgress": [{"ports": [{"port": 9000}], "to": [_pods("store", "minio")]}],
        "metricsFrom": [_pods("monitoring", "prometheus")],
        "pageFrom": [_pods("ingress", "nginx")],
        "operatorEgress": [
            {"ports": [{"port": 6443}], "to": [{"ipBlock": {"cidr": f"{API_SERVER.ip}/32"}}]},
            {"ports": [{"port": 4318}], "to": [_pods("monitoring", "otel")]},
        ],
    },
}


DNS: Final = frozenset({(53, "UDP"), (53, "TCP")})
EVERYTHING: Final = DNS | {(port, "TCP") for port in (8443, 8444, 8080, 9000, 6443, 4318, 443, 80, RENDEZVOUS_PORT, 41327)}
"""Ports that matter to somebody; the last one is any port, as two ranks agree on one between them."""
Table = dict[tuple[str, str], frozenset[tuple[int, str]]]

OPERATORS: Final = ("operator", "its replica")
RANKS: Final = ("rank 0", "rank 1")
OTHER: Final = "other team's trainer"


@dataclass(frozen=True)
class Stage:
    """A release of the chart, and the pods around it."""

    policies: list[dict[str, Any]]
    peers: dict[str, Peer]
    guarded: frozenset[str]
    """Who is under one of the policies."""
    reporting: tuple[str, ...]
    """Whose reports the operator takes."""


@pytest.fixture(scope="module", params=["cluster-wide", "namespaced"])
def stage(request: pytest.FixtureRequest, control_plane: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """The chart in a namespace, for the trainers of two others, or watching the first of the two only."""
    home = f"policies-{uuid.uuid4().hex[:8]}"
    teams = [f"{home}-a", f"{home}-b"]
    watched = teams if request.param == "cluster-wide" else teams[:1]
    policy = {**VALUES["networkPolicy"], "trainerNamespaces": watched if request.param == "cluster-wide" else []}
    values = {**VALUES, "networkPolicy": policy, "watchNamespaces": [] if request.param == "cluster-wide" else watched}
    path = tmp_path_factory.mktemp("policies") / "values.yaml"
    path.write_text(yaml.safe_dump(values))
    for namespace in (home, *teams):
        control_plane.kubectl("create", "namespace", namespace)
    _helm(control_plane, "install", "ftj", str(CHART), f"--namespace={home}", f"--values={path}")
    try:
        policies = [_read(control_plane, "networkpolicies", namespace) for namespace in (home, *teams)]
        (deployment,) = _read(control_plane, "deployments", home)
        trainers = RANKS if request.param == "namespaced" else (*RANKS, OTHER)
        peers = _build_peers(deployment["spec"]["template"]["metadata"]["labels"], home, teams)
        yield Stage([each for found in policies for each in found], peers, frozenset({*OPERATORS, *trainers}), trainers)
    finally:
        _helm(control_plane, "uninstall", "ftj", f"--namespace={home}")
        for namespace in (home, *teams):
            control_plane.kubectl("delete", "namespace", namespace, "--wait=false")


def _helm(cluster: Cluster, *words: str) -> None:
    environment = {**os.environ, "KUBECONFIG": str(cluster.kubeconfig)}
    program = ensure_binaries(["helm"])["helm"]
    spoken = subprocess.run([program, *words], env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert spoken.returncode == 0, spoken.stderr


def _read(cluster: Cluster, kind: str, namespace: str) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = json.loads(cluster.kubectl("--namespace", namespace, "get", kind, "--output=json"))["items"]
    return items


def _build_peers(operator: dict[str, str], home: str, teams: list[str]) -> dict[str, Peer]:
    job = build_job(build_spec(), REF, 0, trainer=TRAINER, reporting=None)
    trainer = job["spec"]["template"]["metadata"]["labels"]
    return {
        "operator": Peer("10.244.0.1", home, operator),
        "its replica": Peer("10.244.0.2", home, operator),
        "neighbour": Peer("10.244.0.3", home, {"app": "neighbour"}),
        "rank 0": Peer("10.244.1.1", teams[0], trainer),
        "rank 1": Peer("10.244.1.2", teams[0], trainer),
        "tenant's pod": Peer("10.244.1.3", teams[0], {"app": "notebook"}),
        OTHER: Peer("10.244.2.1", teams[1], trainer),
        "Prometheus": Peer("10.244.3.1", "monitoring", {"app": "prometheus"}),
        "collector": Peer("10.244.3.2", "monitoring", {"app": "otel"}),
        "page's visitor": Peer("10.244.4.1", "ingress", {"app": "nginx"}),
        "stranger": Peer("10.244.5.1", "stranger", {}),
        "DNS": Peer("10.244.6.1", "kube-system", {"k8s-app": "kube-dns"}),
        "store": Peer("10.244.7.1", "store", {"app": "minio"}),
        "API server": API_SERVER,
        "node's own DNS": Peer("169.254.20.10"),
        "metadata service": Peer("169.254.169.254"),
        "metadata service by IPv6": Peer("fd00:ec2::254"),
        "internet": Peer("93.184.216.34"),
        "internet by IPv6": Peer("2606:2800:220:1::1"),
    }


def _build_needs(stage: Stage) -> Table:
    """Return what operator and trainers need beyond names looked up."""
    reports, http = frozenset({(8443, "TCP")}), {port: frozenset({(port, "TCP")}) for port in (8080, 8444, 9000, 6443, 4318)}
    needs: Table = dict.fromkeys(itertools.product((*stage.reporting, *OPERATORS), OPERATORS), reports)
    for operator in OPERATORS:
        needs["Prometheus", operator] = http[8080]
        needs["page's visitor", operator] = http[8444]
        needs[operator, "API server"] = http[6443] | DNS
        needs[operator, "collector"] = http[4318] | DNS
    for trainer in stage.reporting:
        needs[trainer, "store"] = http[9000] | DNS
        needs[trainer, "internet"] = needs[trainer, "internet by IPv6"] = EVERYTHING
    return needs | dict.fromkeys(itertools.permutations(RANKS), EVERYTHING)


def _look(policies: list[dict[str, Any]], stage: Stage) -> Table:
    """Return what goes between every two peers of which one is an operator or a trainer of the chart's."""
    pairs = [pair for pair in itertools.permutations(stage.peers, 2) if stage.guarded & set(pair)]
    tried = [(pair, port) for pair in pairs for port in sorted(EVERYTHING)]
    attempts = [Attempt(stage.peers[source], stage.peers[target], *port) for (source, target), port in tried]
    through = [each for each, allowed in zip(tried, judge(policies, attempts), strict=True) if allowed]
    return {pair: frozenset(port for found, port in through if found == pair) for pair in pairs}


def test_operator_and_trainers_reach_and_are_reached_by_what_they_need_and_nothing_else(stage: Stage) -> None:
    """Both ways, by every port that matters to anybody: all else is names looked up, by who is under a policy, of who is not."""
    needs = _build_needs(stage)
    found = _look(stage.policies, stage)
    assert found == {pair: needs.get(pair, frozenset() if pair[1] in stage.guarded else DNS) for pair in found}


def test_without_the_policies_all_of_it_goes_through(stage: Stage) -> None:
    """It is the policies that are held above, not the judge."""
    assert set(_look([], stage).values()) == {EVERYTHING}
