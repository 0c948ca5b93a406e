"""The whole cluster: pods that run, names and services that answer, and a machine that is as it was before."""

import subprocess
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from finetune_devcluster import Cluster
from finetune_devcluster.gpus import observe_allocatable
from finetune_devcluster.namespaces import BOUND_FOLDERS
from finetune_devcluster.node_config import HOST_NAME
from finetune_devcluster.paths import compute_cluster_id
from finetune_devcluster.processes import observe_start_ticks, wait_until
from finetune_devcluster.supervisor import NAMESPACE, observe_marked
from tests.support.probe_pods import apply, build_pod, has_ended, load_probe, read_log, require_node, wait_pod

pytestmark = pytest.mark.node


def test_a_pod_reaches_services_names_and_the_object_store(node_cluster: Cluster) -> None:
    server = build_pod("server", "serve", "8080", "sleep", "60")
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "web"},
        "spec": {"selector": {"probe": "server"}, "ports": [{"port": 80, "targetPort": 8080}]},
    }
    apply(node_cluster, server, service)
    wait_pod(node_cluster, "server", lambda pod: pod["status"].get("phase") == "Running")
    endpoint = node_cluster.object_store.pod_endpoint
    arguments = ["get", "http://web/", "get", endpoint, "get", "https://kubernetes.default.svc/version"]
    apply(node_cluster, build_pod("client", *arguments, "resolve", HOST_NAME, "resolve", "nowhere.example"))
    assert wait_pod(node_cluster, "client", has_ended, 120)["status"]["phase"] == "Succeeded"
    log = read_log(node_cluster, "client")
    assert "get http://web/ gave 200 probe answers" in log
    assert f"get {endpoint} gave 403" in log  # it answers, and asks for a signature
    assert "get https://kubernetes.default.svc/version gave 200" in log
    host = node_cluster.host_address
    assert f"resolve {HOST_NAME} gave [{host}]" in log
    assert "nowhere.example failed" in log
    assert "no such host" in log
    node_cluster.kubectl("delete", "pod", "server", "--wait=false")


def test_a_pod_leaves_its_exit_code_and_its_last_word(node_cluster: Cluster) -> None:
    apply(node_cluster, build_pod("word", "write", "/dev/termination-log", "that was all", "exit", "3"))
    ended = wait_pod(node_cluster, "word", has_ended)["status"]["containerStatuses"][0]["state"]["terminated"]
    assert (ended["exitCode"], ended["message"]) == (3, "that was all")


def test_a_deleted_pod_is_told_and_given_time(node_cluster: Cluster) -> None:
    apply(node_cluster, build_pod("told", "sleep", "60"))
    wait_pod(node_cluster, "told", lambda pod: pod["status"].get("phase") == "Running")
    follow = subprocess.Popen([*kubectl(node_cluster), "logs", "--follow", "told"], stdout=subprocess.PIPE, text=True)
    node_cluster.kubectl("delete", "pod", "told", "--timeout=20s")
    said, _ = follow.communicate(timeout=20)
    assert "terminated" in said


def test_the_projected_token_is_there(node_cluster: Cluster) -> None:
    token = {"serviceAccountToken": {"path": "token", "audience": "finetune.dev/test", "expirationSeconds": 600}}
    volumes = [{"name": "token", "projected": {"sources": [token]}}]
    mounts = [{"name": "token", "mountPath": "/token", "readOnly": True}]
    pod = build_pod("token", "file", "/token/token", container={"volumeMounts": mounts}, volumes=volumes)
    apply(node_cluster, pod)
    wait_pod(node_cluster, "token", has_ended)
    assert "file gave ey" in read_log(node_cluster, "token")


def test_a_pod_that_takes_too_much_memory_is_killed_and_that_is_said(node_cluster: Cluster) -> None:
    limits = {"resources": {"limits": {"memory": "48Mi"}}}
    apply(node_cluster, build_pod("greedy", "allocate", "200", container=limits))
    ended = wait_pod(node_cluster, "greedy", has_ended)["status"]["containerStatuses"][0]["state"]["terminated"]
    assert (ended["reason"], ended["exitCode"]) == ("OOMKilled", 137)


def test_an_image_that_is_nowhere_is_said_within_seconds(node_cluster: Cluster) -> None:
    apply(node_cluster, build_pod("nowhere", container={"image": "registry.example/none:1"}))

    def reason(pod: dict) -> bool:  # type: ignore[type-arg]
        waiting = [each.get("state", {}).get("waiting", {}) for each in pod["status"].get("containerStatuses", [])]
        return any(each.get("reason") in ("ErrImagePull", "ImagePullBackOff") for each in waiting)

    wait_pod(node_cluster, "nowhere", reason, timeout=10)
    node_cluster.kubectl("delete", "pod", "nowhere", "--wait=false")


def test_gpus_are_advertised_scheduled_and_kept_over_a_restart_of_kubelet(node_cluster: Cluster) -> None:
    node_cluster.advertise_gpus(1)
    asks = {"resources": {"limits": {"nvidia.com/gpu": 1}}}
    apply(node_cluster, build_pod("first", "env", "NVIDIA_VISIBLE_DEVICES", "sleep", "60", container=asks))
    wait_pod(node_cluster, "first", lambda pod: pod["status"].get("phase") == "Running")
    assert "gave dev-gpu-0" in read_log(node_cluster, "first")
    apply(node_cluster, build_pod("second", "exit", "0", container=asks))
    refused = wait_pod(node_cluster, "second", lambda pod: pod["status"].get("conditions"), timeout=10)
    assert "Insufficient nvidia.com/gpu" in refused["status"]["conditions"][0]["message"]
    node_cluster.stop("kubelet", kill=True)
    node_cluster.restart("kubelet")
    assert wait_until(lambda: observe_allocatable(node_cluster.client) == 1, 30)
    node_cluster.kubectl("delete", "pod", "first", "--timeout=30s")
    wait_pod(node_cluster, "second", lambda pod: pod["status"].get("phase") == "Succeeded")


def test_the_object_store_takes_a_bucket_listing_from_this_machine(node_cluster: Cluster) -> None:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with pytest.raises(urllib.error.HTTPError) as refused:
        opener.open(f"{node_cluster.s3_endpoint}/{node_cluster.object_store.bucket}", timeout=5)
    with refused.value as answer:
        assert answer.code == 403
        assert b"AccessDenied" in answer.read()


def test_an_image_that_is_there_is_not_loaded_again(node_cluster: Cluster, tmp_path: Path) -> None:
    before = node_cluster.list_images()
    load_probe(node_cluster, tmp_path)
    assert node_cluster.list_images() == before


def test_down_leaves_the_machine_as_it_was(tmp_path: Path) -> None:
    require_node()
    before = observe_machine_state()
    folders = observe_folders()
    cluster = Cluster.up("trace", mode="node", state_root=tmp_path, ephemeral=True)
    identity = compute_cluster_id(cluster.folder)
    try:
        load_probe(cluster, tmp_path)
        apply(cluster, build_pod("runs", "sleep", "60"))
        wait_pod(cluster, "runs", lambda pod: pod["status"].get("phase") == "Running")
        holder = cluster._supervisor.state.processes[NAMESPACE].pid
        namespaces = {kind: (Path(f"/proc/{holder}/ns") / kind).readlink() for kind in ("net", "mnt", "pid")}
        assert len(find_members(namespaces)) > len(cluster.components)
        assert len(find_by_name(identity)) > 1
        assert observe_machine_state() == before
        store = cluster._supervisor.state.image_store
        assert store is not None
        mounts = Path("/proc/self/mounts").read_text()
        assert [each for each in (str(tmp_path), store, *BOUND_FOLDERS) if f" {each}" in mounts] == []
    finally:
        cluster.down()
    assert observe_marked(cluster.folder) == []
    assert not cluster.folder.exists()
    assert find_members(namespaces) == []
    # The kernel takes a network namespace apart a moment after its last process.
    assert wait_until(lambda: find_by_name(identity) == [], 10), find_by_name(identity)
    assert observe_machine_state() == before
    assert observe_folders() == folders


def test_a_cluster_that_lost_its_namespaces_is_started_anew(tmp_path: Path) -> None:
    require_node()
    with Cluster.up("lost", mode="node", state_root=tmp_path, ephemeral=True) as cluster:
        cluster.stop(NAMESPACE, kill=True)
        assert wait_until(lambda: not any(cluster.components.values()), 5), cluster.components
        again = Cluster.up("lost", mode="node", state_root=tmp_path)
        assert all(again.components.values())
        assert "Ready" in again.kubectl("get", "nodes")


def observe_machine_state() -> dict[str, str]:
    """Return what a cluster must not change on a machine even while it runs."""
    return {
        "packet filter": "\n".join(line for line in say("iptables-save").splitlines() if not line.startswith("#")),
        "named network namespaces": say("ip", "netns", "list"),
        "default route": say("ip", "-json", "route", "show", "default"),
        "forwarding": Path("/proc/sys/net/ipv4/ip_forward").read_text(),
    }


def observe_folders() -> list[str]:
    """Return which of the folders that kubelet and the network plugins insist on are there."""
    return [each for each in (*BOUND_FOLDERS, "/run/netns", "/run/containerd") if Path(each).exists()]


def find_members(namespaces: dict[str, Path]) -> list[str]:
    """Return the processes that are in one of the namespaces; those that wait to be reaped are in none."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        if observe_start_ticks(int(process.name)) is None:
            continue
        for kind, namespace in namespaces.items():
            try:
                if (process / "ns" / kind).readlink() == namespace:
                    found.append(process.name)
                    break
            except OSError:
                continue
    return found


def find_by_name(identity: str) -> list[str]:
    """Return interfaces and cgroups whose name has the cluster's identity in it."""
    interfaces = [each.name for each in Path("/sys/class/net").iterdir() if identity in each.name]
    return interfaces + [str(each) for each in Path("/sys/fs/cgroup").glob("**/finetune-dev-*") if identity in each.name]


def say(*argv: str) -> str:
    return subprocess.run(argv, capture_output=True, text=True, timeout=20, check=True).stdout


def kubectl(cluster: Cluster) -> list[str]:
    from finetune_devcluster.binaries import ensure_binaries

    return [str(ensure_binaries(["kubectl"])["kubectl"]), f"--kubeconfig={cluster.kubeconfig}"]
