"""The control plane on its own: what integration tests stand on."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from finetune_devcluster import Cluster, DevClusterError
from finetune_devcluster.processes import wait_until
from finetune_devcluster.supervisor import observe_marked
from tests.support.probe_pods import apply, build_pod

pytestmark = pytest.mark.cluster


def read_audit(cluster: Cluster) -> list[dict[str, object]]:
    return [json.loads(line) for line in cluster.audit_log.read_text().splitlines()]


def test_a_running_cluster_is_found_and_not_started_again(control_plane: Cluster) -> None:
    before = {name: record.pid for name, record in control_plane._supervisor.state.processes.items()}
    again = Cluster.up("plane", mode="control-plane", state_root=control_plane.folder.parent)
    assert {name: record.pid for name, record in again._supervisor.state.processes.items()} == before


def test_the_audit_log_has_every_write_and_its_writer_and_no_read(control_plane: Cluster) -> None:
    control_plane.kubectl("create", "configmap", "counted", "--from-literal=key=value")
    control_plane.kubectl("get", "configmap", "counted")
    control_plane.kubectl("delete", "configmap", "counted")
    verbs = [
        (event["verb"], event["user"]["username"])  # type: ignore[index]
        for event in read_audit(control_plane)
        if event["objectRef"]["resource"] == "configmaps" and event["objectRef"].get("name") == "counted"  # type: ignore[index,attr-defined]
    ]
    assert verbs == [("create", "admin"), ("delete", "admin")]


def test_rbac_holds_for_a_minted_user(control_plane: Cluster) -> None:
    kubeconfig = control_plane.mint_user("alice", groups=["team-a"])
    with pytest.raises(DevClusterError, match=r"(?s)alice.*cannot list resource .pods."):
        control_plane.kubectl("get", "pods", f"--kubeconfig={kubeconfig}")
    control_plane.kubectl("create", "rolebinding", "team-a", "--clusterrole=view", "--group=team-a")
    try:
        assert wait_until(lambda: _can_list(control_plane, kubeconfig), 10)
    finally:
        control_plane.kubectl("delete", "rolebinding", "team-a")


def test_pod_security_refuses_what_is_not_restricted(control_plane: Cluster) -> None:
    control_plane.kubectl("create", "namespace", "strict")
    control_plane.kubectl("label", "namespace", "strict", "pod-security.kubernetes.io/enforce=restricted")
    control_plane.kubectl("wait", "--for=create", "serviceaccount/default", "-n", "strict", "--timeout=20s")
    pod = build_pod("loose", "exit", "0")
    pod["metadata"]["namespace"] = "strict"
    apply(control_plane, pod)
    pod["metadata"]["name"] = "looser"
    del pod["spec"]["securityContext"]["runAsNonRoot"]
    with pytest.raises(DevClusterError, match="violates PodSecurity"):
        apply(control_plane, pod)


def test_service_account_tokens_are_signed_and_reviewed(control_plane: Cluster) -> None:
    token = control_plane.kubectl("create", "token", "default", "--audience=finetune.dev/test").strip()

    def review(audience: str) -> dict[str, object]:
        body = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenReview",
            "spec": {"token": token, "audiences": [audience]},
        }
        answer = control_plane.client.request("POST", "/apis/authentication.k8s.io/v1/tokenreviews", body)
        return dict(answer["status"])

    assert review("finetune.dev/test")["user"]["username"] == "system:serviceaccount:default:default"  # type: ignore[index]
    assert not review("another").get("authenticated")


def test_a_job_gets_its_pod_and_the_scheduler_says_why_it_waits(control_plane: Cluster) -> None:
    control_plane.kubectl("create", "job", "waits", "--image=finetune.dev/none:1")
    says = "jsonpath={.items[*].status.conditions[?(@.type=='PodScheduled')].message}"

    def message() -> str:
        return control_plane.kubectl("get", "pods", "-l", "job-name=waits", "-o", says)

    assert wait_until(lambda: "no nodes available" in message(), 15), message()
    control_plane.kubectl("delete", "job", "waits")


def test_a_killed_component_is_seen_and_brought_back(control_plane: Cluster) -> None:
    control_plane.kubectl("create", "configmap", "kept")
    for component in ("etcd", "kube-apiserver"):
        control_plane.stop(component, kill=True)
        assert control_plane.components[component] is False
        control_plane.restart(component)
        assert control_plane.components[component] is True
    assert "kept" in control_plane.kubectl("get", "configmap", "kept")


def test_up_mends_a_cluster_that_is_half_there(control_plane: Cluster) -> None:
    control_plane.stop("kube-scheduler", kill=True)
    mended = Cluster.up("plane", mode="control-plane", state_root=control_plane.folder.parent)
    assert all(mended.components.values())
    assert mended.server == control_plane.server


def test_down_leaves_neither_a_process_nor_a_file(tmp_path: Path) -> None:
    cluster = Cluster.up("gone", mode="control-plane", state_root=tmp_path, object_store=True)
    assert len(observe_marked(cluster.folder)) == len(cluster.components)
    cluster.down()
    assert observe_marked(cluster.folder) == []
    assert list(tmp_path.iterdir()) == []
    cluster.down()


def test_an_ephemeral_cluster_goes_with_a_process_that_is_killed(tmp_path: Path) -> None:
    script = (
        "import sys, time; from pathlib import Path; from finetune_devcluster import Cluster\n"
        "Cluster.up('short', mode='control-plane', state_root=Path(sys.argv[1]), ephemeral=True)\n"
        "print('up', flush=True); time.sleep(120)"
    )
    with subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == "up\n"
        assert observe_marked(tmp_path / "short")
        owner.send_signal(signal.SIGKILL)
    assert wait_until(lambda: not observe_marked(tmp_path / "short") and not (tmp_path / "short").exists(), 20)


def test_two_starts_at_once_make_one_cluster(tmp_path: Path) -> None:
    argv = [sys.executable, "-m", "finetune_devcluster", "up", "--mode=control-plane", "--name=one", f"--state-dir={tmp_path}"]
    started = [subprocess.Popen(argv, stdout=subprocess.DEVNULL) for _ in range(2)]
    try:
        assert [each.wait(120) for each in started] == [0, 0]
        time.sleep(0.2)
        assert len(observe_marked(tmp_path / "one")) == 4
    finally:
        Cluster.attach("one", state_root=tmp_path).down()


def _can_list(cluster: Cluster, kubeconfig: Path) -> bool:
    try:
        cluster.kubectl("get", "pods", f"--kubeconfig={kubeconfig}")
    except DevClusterError:
        return False
    return True
