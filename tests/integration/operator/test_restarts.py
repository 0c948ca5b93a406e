"""The operator killed, stopped and started again, on a control plane of its own: nobody else does its work meanwhile."""

import base64
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from finetune_api.names import ENV_CONFIG
from finetune_devcluster import Cluster
from finetune_devcluster.api_client import ApiError
from tests.integration.operator.conftest import wait_for_account
from tests.support.audit import read_writes, render
from tests.support.crds import install_crds
from tests.support.fake_node import FakeNode, Script
from tests.support.live_run import LiveRun, wait_until
from tests.support.operator_process import NAMESPACE, TLS_SECRET, USER, OperatorProcess, install_rights, write_kubeconfig
from tests.support.world import build_summary

pytestmark = pytest.mark.cluster
FINISHED_RUNS = 20


class Bench:
    """A control plane, a node and an operator that is started and stopped by the test."""

    def __init__(self, cluster: Cluster, node: FakeNode, operator: OperatorProcess) -> None:
        self.cluster, self.node, self.operator = cluster, node, operator
        self._count = 0

    def new_run(self) -> LiveRun:
        self._count += 1
        namespace = f"restarts-{self._count}"
        self.cluster.kubectl("create", "namespace", namespace)
        wait_for_account(self.cluster, namespace)
        return LiveRun(self.cluster, self.node, namespace, "run")

    def read_authority(self) -> str:
        path = f"/api/v1/namespaces/{NAMESPACE}/secrets/{TLS_SECRET}"
        encoded = wait_until(lambda: self.cluster.client.request("GET", path).get("data", {}).get("ca.crt"), "the operator's certificate")
        return base64.b64decode(encoded).decode()


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    folder = tmp_path_factory.mktemp("restarts")
    with Cluster.up("restarts", state_root=folder, ephemeral=True) as cluster:
        install_crds(cluster)
        install_rights(cluster)
        operator = OperatorProcess(write_kubeconfig(cluster, folder / "kubeconfig"), folder)
        with FakeNode(cluster) as node:
            try:
                yield Bench(cluster, node, operator)
            finally:
                operator.stop()


@dataclass
class Outage:
    """What was done while the operator was killed, and how the world looked just before it came back."""

    bench: Bench
    authority: str
    trained: LiveRun
    ended: LiveRun
    deleted: LiveRun
    suspended: LiveRun
    claimed: LiveRun
    unseen: LiveRun
    finished: list[LiveRun]
    audit_end: int
    start_seconds: float


@pytest.fixture(scope="module")
def outage(bench: Bench) -> Outage:
    """Kill the operator, change everything that can be changed meanwhile, and start it again."""
    bench.operator.start()
    authority = bench.read_authority()
    trained, ended, deleted, suspended, first = (bench.new_run() for _ in range(5))
    finished = [LiveRun(bench.cluster, bench.node, first.namespace, f"run-{number}") for number in range(FINISHED_RUNS)]
    for run in finished:
        run.apply({"resources": {"gpus": 0}}, Script(ends=iter([(0, build_summary())])))
    for run in (trained, ended, deleted, suspended):
        run.apply()
    for run in (trained, ended, deleted, suspended):
        run.wait_phase("Running")
    for run in finished:
        run.wait_phase("Succeeded", 60)
    time.sleep(1)  # what follows an end, an Event, is written
    bench.operator.kill()

    ended.end_pod(0, build_summary())
    deleted.delete()
    suspended.patch({"suspend": True})
    claimed, unseen = bench.new_run(), bench.new_run()
    claimed.apply()
    # Between claim and Job lie a few milliseconds: what a process leaves that ends there is written by hand.
    claimed.client.request(
        "PATCH", f"{claimed.path}/status", {"status": {"phase": "Pending", "attempt": 0}}, "application/merge-patch+json"
    )
    unseen.apply()
    wait_until(lambda: any(each["type"] == "Complete" for each in ended.jobs()[0]["status"].get("conditions", [])), "the Job is complete")
    assert ended.status["phase"] == "Running"
    audit_end = bench.cluster.audit_log.stat().st_size
    took = bench.operator.start()
    return Outage(bench, authority, trained, ended, deleted, suspended, claimed, unseen, finished, audit_end, took)


def test_a_run_that_trained_meanwhile_was_not_touched(outage: Outage) -> None:
    assert outage.trained.status["phase"] == "Running"
    assert len(outage.trained.jobs()) == len(outage.trained.pods()) == 1
    outage.trained.end_pod(0, build_summary())
    assert outage.trained.wait_phase("Succeeded")["restarts"] == 0


def test_an_end_that_it_did_not_see_is_told(outage: Outage) -> None:
    assert outage.ended.wait_phase("Succeeded")["artifacts"]


def test_a_run_that_was_deleted_leaves_nothing(outage: Outage) -> None:
    run = outage.deleted
    children = [f"/apis/batch/v1/namespaces/{run.namespace}/jobs", f"/api/v1/namespaces/{run.namespace}/pods"]
    wait_until(lambda: not any(run.client.request("GET", path)["items"] for path in children), "Job and pod are gone")
    with pytest.raises(ApiError, match="404"):
        run.get()


def test_a_suspension_is_carried_out(outage: Outage) -> None:
    outage.suspended.wait_phase("Suspended")
    wait_until(lambda: not outage.suspended.pods(), "no pod is left")


def test_a_claim_without_a_job_gets_its_job_under_the_same_name(outage: Outage) -> None:
    assert outage.claimed.wait_job()["metadata"]["name"].endswith("-0")
    outage.claimed.wait_phase("Running")
    assert len(outage.claimed.jobs()) == 1


def test_a_run_applied_meanwhile_starts_and_its_trainer_knows_the_same_authority(outage: Outage) -> None:
    """The certificate is made once: trainers that run already must find it unchanged."""
    (container,) = outage.unseen.wait_job()["spec"]["template"]["spec"]["containers"]
    (config,) = [variable["value"] for variable in container["env"] if variable["name"] == ENV_CONFIG]
    assert outage.bench.read_authority() == outage.authority
    assert outage.authority.splitlines()[1] in config


def test_runs_that_have_ended_cost_no_write(outage: Outage, capsys: pytest.CaptureFixture[str]) -> None:
    time.sleep(2)
    writes = read_writes(outage.bench.cluster.audit_log, user=USER, namespace=outage.finished[0].namespace, since=outage.audit_end)
    with capsys.disabled():
        print(f"\nready again after {outage.start_seconds:.1f} s; writes for {FINISHED_RUNS} finished runs: {len(writes)}", end=" ")  # noqa: T201
    assert writes == [], render(writes)


def _claim_is_written(run: LiveRun) -> bool:
    return "attempt" in run.status


def _job_is_made(run: LiveRun) -> bool:
    return bool(run.jobs())


@pytest.mark.parametrize("moment", [_claim_is_written, _job_is_made])
def test_killed_while_it_starts_a_run_it_goes_on_where_it_was(outage: Outage, moment: Callable[[LiveRun], bool]) -> None:
    bench = outage.bench
    run = bench.new_run()
    run.apply()
    wait_until(lambda: moment(run), moment.__name__)
    bench.operator.kill()
    bench.operator.start()
    run.wait_phase("Running")
    run.end_pod(0, build_summary())
    status = run.wait_phase("Succeeded")
    assert len(run.jobs()) == 1
    assert (status["attempt"], status["restarts"]) == (0, 0)


def test_without_rights_it_says_so_and_ends(bench: Bench, tmp_path: Path) -> None:
    process = OperatorProcess(bench.cluster.mint_user("nobody"), tmp_path)
    with pytest.raises(AssertionError, match="the operator left with 1"):
        process.start()
    assert "forbidden" in process.read_log()
    assert "Traceback" not in process.read_log()


def test_the_api_server_can_be_away_for_a_while(outage: Outage) -> None:
    bench = outage.bench
    run = bench.new_run()
    bench.cluster.stop("kube-apiserver", kill=True)
    time.sleep(2)
    bench.cluster.restart("kube-apiserver")
    bench.node.faults.clear()
    run.apply()
    run.wait_phase("Running", 60)


def test_told_to_stop_it_stops(outage: Outage) -> None:
    assert outage.bench.operator.stop(signal.SIGTERM) == 0


def test_installed_for_one_namespace_it_works_there_and_nowhere_else(bench: Bench, tmp_path: Path) -> None:
    """The last one here: the operator of all namespaces must be stopped."""
    bench.operator.stop()
    watched, other = bench.new_run(), bench.new_run()
    install_rights(bench.cluster, "narrow", watched.namespace)
    environment = {"FINETUNE_WATCH_NAMESPACES": watched.namespace, "FINETUNE_OPERATOR_NAMESPACE": "narrow"}
    narrow = OperatorProcess(write_kubeconfig(bench.cluster, tmp_path / "kubeconfig", "narrow"), tmp_path, environment)
    other.apply()
    with narrow:
        watched.apply()
        watched.wait_phase("Running")
        watched.end_pod(0, build_summary())
        watched.wait_phase("Succeeded")
    assert other.status == {"observedGeneration": -1}, "nobody has seen it"
    assert "cannot" not in narrow.read_log()
