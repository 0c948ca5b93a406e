"""Two replicas on a real control plane: one writes, and the other one when it is gone.

Their Lease and the pause are short here; `make ha` runs both in full and writes the table of figures.
"""

import json
import os
import signal
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from finetune_devcluster import Cluster
from finetune_devcluster.errors import DevClusterError
from finetune_operator.kube.client import FENCE_WORDS
from tests.integration.operator.conftest import wait_for_account
from tests.support.audit import Write, read_writes
from tests.support.crds import install_crds
from tests.support.fake_node import FakeNode
from tests.support.live_run import LiveRun, wait_until
from tests.support.operator_process import USER, install_rights
from tests.support.replicas import LEASE_PATH, Replica, install_templates, wait_holder
from tests.support.world import build_summary

pytestmark = pytest.mark.cluster

FULL = "FINETUNE_HA_FULL" in os.environ
in_full = pytest.mark.skipif(not FULL, reason="a figure: see `make ha`; tests/faults/test_replicas.py holds the property")
LEASE_SECONDS = 10 if FULL else 3
PAUSE_SECONDS = 60.0 if FULL else 6.0


FIGURES: dict[str, str] = {}
TABLE = Path(__file__).parents[3] / "docs" / "reference" / "high-availability.md"


class Pair:
    """A control plane with a node, and replicas of the operator by their letter."""

    def __init__(self, cluster: Cluster, node: FakeNode, folder: Path) -> None:
        self.cluster, self.node, self.folder = cluster, node, folder
        self.replicas: list[Replica] = []

    def start(self, letter: str) -> Replica:
        name = f"{letter}-{uuid.uuid4().hex[:6]}"
        replica = Replica(self.cluster, name, self.folder / name, LEASE_SECONDS)
        self.replicas.append(replica)
        replica.start()
        return replica

    def new_run(self) -> LiveRun:
        namespace = f"ha-{uuid.uuid4().hex[:8]}"
        self.cluster.kubectl("create", "namespace", namespace)
        wait_for_account(self.cluster, namespace)
        return LiveRun(self.cluster, self.node, namespace, "run")

    def audit_end(self) -> int:
        return self.cluster.audit_log.stat().st_size

    def writes(self, since: int) -> list[Write]:
        return read_writes(self.cluster.audit_log, user=USER, since=since)


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Cluster, FakeNode]]:
    folder = tmp_path_factory.mktemp("replicas")
    with Cluster.up("replicas", state_root=folder, ephemeral=True) as cluster:
        install_crds(cluster)
        install_rights(cluster)
        install_templates(cluster, "fence")
        with FakeNode(cluster) as node:
            yield cluster, node
    if FULL:
        rows = [f"| {what} | {figure} |" for what, figure in FIGURES.items()]
        words = f"Written by `make ha`: two replicas on a real API server, a Lease of {LEASE_SECONDS} s, on the machine that ran it."
        TABLE.write_text("\n".join(["# High availability: figures", "", words, "", "| the leader is | |", "| --- | --- |", *rows, ""]))


@pytest.fixture
def pair(plane: tuple[Cluster, FakeNode], tmp_path: Path) -> Iterator[Pair]:
    cluster, node = plane
    pair = Pair(cluster, node, tmp_path)
    # Each test begins with a Lease that nobody holds.
    cluster.client.request("PATCH", LEASE_PATH, {"spec": {"holderIdentity": ""}}, "application/merge-patch+json")
    try:
        yield pair
    finally:
        for replica in pair.replicas:
            replica.kill()


@in_full
def test_a_killed_leader_is_replaced_and_its_runs_go_on(pair: Pair) -> None:
    first = pair.start("a")
    wait_holder(pair.cluster, first.name, 30)
    second = pair.start("b")
    run = pair.new_run()
    run.apply()
    run.wait_phase("Running")
    first.kill()
    killed = time.monotonic()
    run.end_pod(0, build_summary())
    run.wait_phase("Succeeded", 60)
    FIGURES["killed (SIGKILL): the next status is written after"] = f"{time.monotonic() - killed:.1f} s"
    assert second.leads
    assert len(run.jobs()) == 1


@in_full
def test_a_leader_told_to_stop_lets_go(pair: Pair) -> None:
    first = pair.start("a")
    wait_holder(pair.cluster, first.name, 30)
    second = pair.start("b")
    began = time.monotonic()
    assert first.stop(signal.SIGTERM) == 0
    left = time.monotonic() - began
    wait_holder(pair.cluster, second.name, 30)
    FIGURES["told to stop (SIGTERM): it has left after"] = f"{left:.1f} s"
    FIGURES["told to stop (SIGTERM): another holds the Lease after"] = f"{time.monotonic() - began:.1f} s"


def test_a_leader_that_was_paused_writes_nothing_any_more(pair: Pair) -> None:
    """Work waits for it on all sides when it wakes: runs that end, that begin, and that are suspended."""
    first = pair.start("a")
    wait_holder(pair.cluster, first.name, 30)
    second = pair.start("b")
    runs = [pair.new_run() for _ in range(3)]
    for run in runs:
        run.apply()
    for run in runs:
        run.wait_phase("Running")
    first.pause()
    paused = time.monotonic()
    runs[0].end_pod(0, build_summary())
    runs[1].patch({"suspend": True})
    late = pair.new_run()
    late.apply()
    taken = wait_holder(pair.cluster, second.name, 60)
    runs[0].wait_phase("Succeeded", 60)
    runs[1].wait_phase("Suspended", 60)
    late.wait_phase("Running", 60)
    # Not for something to come true: the pause itself is what is tested.
    time.sleep(max(0.0, PAUSE_SECONDS - (time.monotonic() - paused)))
    second.pause()  # whoever writes now is the first one
    since = pair.audit_end()
    end = pair.new_run()
    end.apply()
    first.go_on()
    wait_until(lambda: "no longer leading" in first.read_log(), "the first one knows", 30)
    quiet = [write for write in pair.writes(since) if write.code < 400]
    second.go_on()
    end.wait_phase("Running", 60)
    FIGURES[f"paused (SIGSTOP) for {PAUSE_SECONDS:.0f} s: another holds the Lease after"] = f"{taken:.1f} s"
    FIGURES[f"paused (SIGSTOP) for {PAUSE_SECONDS:.0f} s: writes after it woke (audit log)"] = str(len(quiet))
    assert quiet == []
    assert [len(run.jobs()) for run in (*runs, late, end)] == [1, 1, 1, 1, 1]


def test_the_api_server_refuses_who_does_not_hold_the_lease(pair: Pair) -> None:
    """Whatever the replica itself believes: this is what stops a request that was sent before a pause and arrives after it."""
    holder, other = (Replica(pair.cluster, f"{letter}-{uuid.uuid4().hex[:6]}", pair.folder / letter, LEASE_SECONDS) for letter in "ab")
    patch = {"spec": {"holderIdentity": holder.name, "leaseDurationSeconds": 600}}
    pair.cluster.client.request("PATCH", LEASE_PATH, patch, "application/merge-patch+json")
    run = pair.new_run()
    run.apply()

    def write(replica: Replica, phase: str) -> str:
        words = ("patch", "ftj", run.name, "--namespace", run.namespace, "--subresource=status", "--type=merge")
        try:
            return pair.cluster.kubectl(*words, "--patch", json.dumps({"status": {"phase": phase}}), f"--kubeconfig={replica.kubeconfig}")
        except DevClusterError as error:
            return str(error)

    wait_until(lambda: "patched" in write(holder, "Pending"), "the holder may write", 30)
    assert f"pod {other.name} {FENCE_WORDS}" in write(other, "Queued")
    create = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "late", "namespace": run.namespace}}
    template = {"spec": {"restartPolicy": "Never", "containers": [{"name": "trainer", "image": "x"}]}}
    manifest = json.dumps({**create, "spec": {"template": template}})
    with pytest.raises(DevClusterError, match=FENCE_WORDS):
        pair.cluster.kubectl("create", "--filename=-", f"--kubeconfig={other.kubeconfig}", stdin=manifest)
    assert run.status["phase"] == "Pending"
    # Given to the other one, it is the other one's at once.
    pair.cluster.client.request("PATCH", LEASE_PATH, {"spec": {"holderIdentity": other.name}}, "application/merge-patch+json")
    wait_until(lambda: "patched" in write(other, "Queued"), "the new holder may write", 30)
    assert FENCE_WORDS in write(holder, "Pending")
