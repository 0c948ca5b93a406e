"""The operator killed, stopped and started again, on a control plane of its own: nobody else does its work meanwhile."""

import base64
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from finetune_api.names import ENV_CONFIG
from finetune_devcluster import Cluster
from finetune_devcluster.api_client import ApiError
from tests.integration.conftest import CRD_PATH
from tests.integration.operator.conftest import wait_for_account
from tests.support.audit import read_writes, render
from tests.support.fake_node import FakeNode, Script
from tests.support.live_run import LiveRun, wait_until
from tests.support.operator_process import NAMESPACE, TLS_SECRET, USER, OperatorProcess, install_rights, write_kubeconfig
from tests.support.world import build_summary

pytestmark = pytest.mark.cluster
FINISHED_RUNS = 30


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

    def count_writes(self, since: int) -> str:
        writes = read_writes(self.cluster.audit_log, user=USER, since=since)
        return render(writes) if writes else ""

    @property
    def audit_end(self) -> int:
        return self.cluster.audit_log.stat().st_size


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    folder = tmp_path_factory.mktemp("restarts")
    with Cluster.up("restarts", state_root=folder, ephemeral=True) as cluster:
        cluster.kubectl("apply", "--server-side", "-f", str(CRD_PATH))
        cluster.kubectl("wait", "--for=condition=Established", "--timeout=30s", "crd/finetunejobs.finetune.dev")
        install_rights(cluster)
        operator = OperatorProcess(write_kubeconfig(cluster, folder / "kubeconfig"), folder)
        with FakeNode(cluster) as node:
            try:
                yield Bench(cluster, node, operator)
            finally:
                operator.stop()


@pytest.fixture(autouse=True)
def _stopped(bench: Bench) -> Iterator[None]:
    yield
    bench.operator.stop()


def _read_authority(bench: Bench) -> bytes:
    secret = bench.cluster.client.request("GET", f"/api/v1/namespaces/{NAMESPACE}/secrets/{TLS_SECRET}")
    return base64.b64decode(secret["data"]["ca.crt"])


def test_the_certificate_is_made_once_and_used_again(bench: Bench) -> None:
    bench.operator.start()
    authority = _read_authority(bench)
    bench.operator.kill()
    run = bench.new_run()
    run.apply()
    bench.operator.start()
    (container,) = run.wait_job()["spec"]["template"]["spec"]["containers"]
    (config,) = [variable["value"] for variable in container["env"] if variable["name"] == ENV_CONFIG]
    assert _read_authority(bench) == authority
    assert authority.decode().splitlines()[1] in config


def _claim_is_written(run: LiveRun) -> bool:
    return "attempt" in run.status


def _job_is_made(run: LiveRun) -> bool:
    return bool(run.jobs())


def _pod_runs(run: LiveRun) -> bool:
    return any(pod["status"]["phase"] == "Running" for pod in run.pods())


@pytest.mark.parametrize("moment", [_claim_is_written, _job_is_made, _pod_runs])
def test_killed_at_any_moment_it_goes_on_where_it_was(bench: Bench, moment: Callable[[LiveRun], bool]) -> None:
    bench.operator.start()
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


def test_what_was_killed_between_claim_and_job_is_made_under_the_same_name(bench: Bench) -> None:
    """The moment itself is a few milliseconds: what it leaves behind is written here by hand."""
    run = bench.new_run()
    run.apply()
    run.client.request("PATCH", f"{run.path}/status", {"status": {"phase": "Pending", "attempt": 0}}, "application/merge-patch+json")
    bench.operator.start()
    assert run.wait_job()["metadata"]["name"].endswith("-0")
    run.wait_phase("Running")
    assert len(run.jobs()) == 1


def test_an_end_that_it_did_not_see_is_told_when_it_is_back(bench: Bench) -> None:
    bench.operator.start()
    run = bench.new_run()
    run.apply()
    run.wait_phase("Running")
    bench.operator.kill()
    run.end_pod(0, build_summary())
    wait_until(lambda: any(each["type"] == "Complete" for each in run.jobs()[0]["status"].get("conditions", [])), "the Job is complete")
    assert run.status["phase"] == "Running"
    bench.operator.start()
    status = run.wait_phase("Succeeded")
    assert status["artifacts"]


def test_a_run_deleted_while_it_was_down_leaves_nothing(bench: Bench) -> None:
    bench.operator.start()
    run = bench.new_run()
    run.apply()
    run.wait_phase("Running")
    bench.operator.kill()
    run.delete()
    children = [f"/apis/batch/v1/namespaces/{run.namespace}/jobs", f"/api/v1/namespaces/{run.namespace}/pods"]
    wait_until(lambda: not any(run.client.request("GET", path)["items"] for path in children), "Job and pod are gone")
    bench.operator.start()
    time.sleep(1)
    assert not any(run.client.request("GET", path)["items"] for path in children)
    with pytest.raises(ApiError, match="404"):
        run.get()


def test_a_suspension_while_it_was_down_is_carried_out(bench: Bench) -> None:
    bench.operator.start()
    run = bench.new_run()
    run.apply()
    run.wait_phase("Running")
    bench.operator.kill()
    run.patch({"suspend": True})
    bench.operator.start()
    run.wait_phase("Suspended")
    wait_until(lambda: not run.pods(), "no pod is left")


def test_with_many_runs_that_have_ended_a_start_writes_nothing(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    bench.operator.start()
    first = bench.new_run()
    runs = [LiveRun(bench.cluster, bench.node, first.namespace, f"run-{number}") for number in range(FINISHED_RUNS)]
    for run in runs:
        run.apply({"resources": {"gpus": 0}}, Script(ends=iter([(0, build_summary())])))
    for run in runs:
        run.wait_phase("Succeeded", 60)
    assert bench.operator.stop(signal.SIGTERM) == 0
    since = bench.audit_end
    took = bench.operator.start()
    time.sleep(3)
    with capsys.disabled():
        print(f"\nready again with {FINISHED_RUNS} finished runs after {took:.1f} s, writes:", bench.count_writes(since) or 0, end=" ")  # noqa: T201
    assert bench.count_writes(since) == ""


def test_without_an_image_it_says_so_and_ends(bench: Bench, tmp_path: Path) -> None:
    process = OperatorProcess(bench.cluster.kubeconfig, tmp_path, {"FINETUNE_TRAINER_IMAGE": "", "FINETUNE_WORKERS": "0"})
    with pytest.raises(AssertionError, match="FINETUNE_WORKERS"):
        process.start()
    assert "FINETUNE_TRAINER_IMAGE: must name the trainer's image" in process.read_log()
    assert "Traceback" not in process.read_log()


def test_without_rights_it_says_so_and_ends(bench: Bench, tmp_path: Path) -> None:
    process = OperatorProcess(bench.cluster.mint_user("nobody"), tmp_path)
    with pytest.raises(AssertionError, match="the operator left with 1"):
        process.start()
    assert "forbidden" in process.read_log()
    assert "Traceback" not in process.read_log()


def test_the_api_server_can_be_away_for_a_while(bench: Bench) -> None:
    bench.operator.start()
    run = bench.new_run()
    bench.cluster.stop("kube-apiserver", kill=True)
    time.sleep(2)
    bench.cluster.restart("kube-apiserver")
    bench.node.faults.clear()
    run.apply()
    run.wait_phase("Running", 60)
