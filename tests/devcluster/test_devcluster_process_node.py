"""Pods as local processes, where no containers can run."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from finetune_devcluster import Cluster, DevClusterError
from finetune_devcluster.gpus import observe_allocatable
from finetune_devcluster.ports import find_free_ports
from finetune_devcluster.processes import wait_until
from finetune_devcluster.supervisor import observe_marked
from tests.support.probe_pods import apply, has_ended, wait_pod

pytestmark = pytest.mark.cluster

IMAGE = "example.test/python:3"


@pytest.fixture(scope="module")
def processes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    root = tmp_path_factory.mktemp("clusters")
    with Cluster.up("processes", mode="process-node", gpus=1, state_root=root, ephemeral=True) as cluster:
        cluster.map_image("example.test/python:*", [sys.executable], [Path(sys.executable).parent])
        yield cluster


def build_pod(name: str, code: str, **container: Any) -> dict[str, Any]:
    meta = {"name": name, "labels": {"app": name}}
    spec: dict[str, Any] = {"restartPolicy": "Never", "terminationGracePeriodSeconds": 3}
    spec |= container.pop("spec", {})
    spec["containers"] = [{"name": "main", "image": IMAGE, "args": ["-c", code], **container}]
    return {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec}


def terminated(pod: dict[str, Any]) -> dict[str, Any]:
    return dict(pod["status"]["containerStatuses"][0]["state"]["terminated"])


def test_a_pod_has_its_variables_its_volumes_and_its_last_word(processes: Cluster) -> None:
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "keys"}, "stringData": {"KEY": "hidden"}}
    code = (
        "import os\n"
        "assert os.environ['S3_KEY'] == 'hidden', os.environ\n"
        "assert os.environ['ONE'] == 'hidden'\n"
        "assert os.environ['NAMED'] == 'whole/default'\n"
        "assert open(os.environ['TOKEN']).read().startswith('ey')\n"
        "assert open(os.path.join(os.environ['FINETUNE_ROOT'], 'keys', 'KEY')).read() == 'hidden'\n"
        "assert open('/keys/KEY').read() == 'hidden'  # a path in an argument leads there too\n"
        "open(os.path.join(os.environ['HOME'], 'mark'), 'w').write('x')\n"
        "last = os.environ['FINETUNE_ROOT'] + '/dev/termination-log'\n"
        "assert os.environ['FINETUNE_TERMINATION_MESSAGE_PATH'] == last\n"
        "open(last, 'w').write('that was all')\n"
        "print('work is', os.environ['HOME'])\n"
        "raise SystemExit(3)\n"
    )
    field = {"valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}
    env = [
        {"name": "ONE", "valueFrom": {"secretKeyRef": {"name": "keys", "key": "KEY"}}},
        {"name": "NAME", **field},
        {"name": "NAMESPACE", "valueFrom": {"fieldRef": {"fieldPath": "metadata.namespace"}}},
        {"name": "NAMED", "value": "$(NAME)/$(NAMESPACE)"},
        {"name": "TOKEN", "value": "/token/token"},
        {"name": "HOME", "value": "/scratch"},
    ]
    mounts = [{"name": each, "mountPath": f"/{each}"} for each in ("token", "keys", "scratch")]
    token = {"serviceAccountToken": {"path": "token", "audience": "finetune.dev/test"}}
    volumes = [
        {"name": "token", "projected": {"sources": [token]}},
        {"name": "keys", "secret": {"secretName": "keys"}},
        {"name": "scratch", "emptyDir": {}},
    ]
    prefixed = [{"prefix": "S3_", "secretRef": {"name": "keys"}}]
    apply(processes, secret, build_pod("whole", code, env=env, envFrom=prefixed, volumeMounts=mounts, spec={"volumes": volumes}))
    pod = wait_pod(processes, "whole", has_ended)
    log = processes.kubectl("logs", "whole")
    assert (pod["status"]["phase"], terminated(pod)["exitCode"], terminated(pod).get("message")) == ("Failed", 3, "that was all"), log
    assert "work is " in log
    events = processes.kubectl("get", "events", "--field-selector=involvedObject.name=whole")
    assert "isolated by nothing" in events


def test_a_deleted_pod_is_told_and_leaves_no_process_and_no_file(processes: Cluster) -> None:
    code = (
        "import signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: (print('told', flush=True), sys.exit(75)))\n"
        "print('on', flush=True); time.sleep(100)"
    )
    apply(processes, build_pod("told", code))
    pod = wait_pod(processes, "told", lambda pod: pod["status"].get("phase") == "Running")
    before = len(observe_marked(processes.folder))
    from finetune_devcluster.binaries import ensure_binaries

    kubectl = [str(ensure_binaries(["kubectl"])["kubectl"]), f"--kubeconfig={processes.kubeconfig}"]
    with subprocess.Popen([*kubectl, "logs", "--follow", "told"], stdout=subprocess.PIPE, text=True) as follow:
        assert follow.stdout is not None
        assert follow.stdout.readline() == "on\n"
        processes.kubectl("delete", "pod", "told", "--timeout=20s")
        assert "told" in follow.communicate(timeout=20)[0]
    assert len(observe_marked(processes.folder)) == before - 1
    assert not (processes.folder / "pods" / pod["metadata"]["uid"]).exists()


def test_a_pod_that_does_not_listen_is_killed_with_its_children(processes: Cluster) -> None:
    code = (
        "import signal, subprocess, sys, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(100)'])\n"
        "time.sleep(100)"
    )
    apply(processes, build_pod("deaf", code, spec={"terminationGracePeriodSeconds": 1}))
    wait_pod(processes, "deaf", lambda pod: pod["status"].get("phase") == "Running")
    assert wait_until(lambda: len(observe_marked(processes.folder)) == len(processes.components) + 2, 10)
    processes.kubectl("delete", "pod", "deaf", "--timeout=20s")
    assert wait_until(lambda: len(observe_marked(processes.folder)) == len(processes.components), 10)


def test_what_keeps_a_pod_from_running_is_said_in_kubelets_words(processes: Cluster) -> None:
    apply(
        processes,
        build_pod("no-image", "", image="registry.example/none:1"),
        build_pod("no-secret", "", envFrom=[{"secretRef": {"name": "absent"}}]),
        build_pod("no-gpu", "", resources={"limits": {"nvidia.com/gpu": 2}}),
    )

    def waiting(pod: dict[str, Any]) -> dict[str, Any]:
        statuses = pod["status"].get("containerStatuses", [{}])
        return dict(statuses[0].get("state", {}).get("waiting", {}))

    wait_pod(processes, "no-image", lambda pod: waiting(pod).get("reason") in ("ErrImagePull", "ImagePullBackOff"), 10)
    pod = wait_pod(processes, "no-secret", lambda pod: waiting(pod).get("reason") == "CreateContainerConfigError", 10)
    assert waiting(pod)["message"] == 'secret "absent" not found'
    pod = wait_pod(processes, "no-gpu", lambda pod: pod["status"].get("conditions"), 10)
    assert "Insufficient nvidia.com/gpu" in pod["status"]["conditions"][0]["message"]
    processes.kubectl("create", "secret", "generic", "absent", "--from-literal=A=b")
    wait_pod(processes, "no-secret", has_ended, 20)
    processes.kubectl("delete", "pod", "no-image", "no-secret", "no-gpu", "--timeout=20s")


def test_a_pod_that_needs_more_than_a_process_is_refused_with_the_reason(processes: Cluster) -> None:
    second = {"name": "second", "image": IMAGE}
    pod = build_pod(
        "pair", "", spec={"initContainers": [{**second, "name": "first"}], "volumes": [{"name": "h", "hostPath": {"path": "/"}}]}
    )
    pod["spec"]["containers"].append(second)
    apply(processes, pod)
    status = wait_pod(processes, "pair", has_ended)["status"]
    assert status["reason"] == "NotSupportedByProcessNode"
    for word in ("init containers", "2 containers", "volume h"):
        assert word in status["message"]


def test_a_job_retries_by_its_own_rules(processes: Cluster) -> None:
    pod = build_pod("unused", "raise SystemExit(4)")
    template = {"spec": pod["spec"]}
    job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "tries"}, "spec": {"backoffLimit": 1, "template": template}}
    apply(processes, job)
    processes.kubectl("wait", "--for=condition=Failed", "job/tries", "--timeout=60s", timeout=70)
    codes = "jsonpath={.items[*].status.containerStatuses[0].state.terminated.exitCode}"
    assert processes.kubectl("get", "pods", "-l", "job-name=tries", "-o", codes) == "4 4"


def test_a_deployment_becomes_ready_is_found_by_name_and_may_ask_the_api_server(processes: Cluster) -> None:
    (port,) = find_free_ports(1)
    server = (
        "import http.server, os, json\n"
        "config = json.load(open(os.environ['KUBECONFIG']))\n"
        "assert config['users'][0]['user']['token']\n"
        f"http.server.test(http.server.SimpleHTTPRequestHandler, port={port}, bind='0.0.0.0')"
    )
    pod = build_pod("unused", server, spec={"restartPolicy": "Always"})
    container = pod["spec"]["containers"][0]
    container["ports"] = [{"name": "web", "containerPort": port}]
    container["readinessProbe"] = {"httpGet": {"path": "/", "port": "web"}, "periodSeconds": 1}
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "web"},
        "spec": {
            "selector": {"matchLabels": {"app": "web"}},
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": pod["spec"]},
        },
    }
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "web"},
        "spec": {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": "web"}]},
    }
    apply(processes, deployment, service)
    processes.kubectl("rollout", "status", "deployment/web", "--timeout=40s")
    endpoint = processes.object_store.pod_endpoint
    client = (
        "import urllib.request, urllib.error, time\n"
        "for _ in range(50):\n"
        "    try: answer = urllib.request.urlopen('http://web.default.svc/', timeout=3).status; break\n"
        "    except OSError: time.sleep(0.2)\n"
        f"try: urllib.request.urlopen('{endpoint}', timeout=3)\n"
        "except urllib.error.HTTPError as error: print('web', answer, 's3', error.code)\n"
    )
    apply(processes, build_pod("client", client))
    wait_pod(processes, "client", has_ended)
    assert "web 200 s3 403" in processes.kubectl("logs", "client")
    processes.kubectl("delete", "deployment", "web")


def test_a_process_node_that_died_says_that_it_does_not_know(processes: Cluster) -> None:
    apply(processes, build_pod("orphan", "import time; time.sleep(100)"))
    wait_pod(processes, "orphan", lambda pod: pod["status"].get("phase") == "Running")
    processes.stop("process-node", kill=True)
    processes.restart("process-node")
    pod = wait_pod(processes, "orphan", has_ended)
    assert terminated(pod)["exitCode"] == 137
    assert len(observe_marked(processes.folder)) == len(processes.components)


def test_gpus_follow(processes: Cluster) -> None:
    assert observe_allocatable(processes.client) == 1
    processes.advertise_gpus(3)
    assert observe_allocatable(processes.client) == 3


def test_images_are_mapped_not_loaded(processes: Cluster, tmp_path: Path) -> None:
    with pytest.raises(DevClusterError, match="map_image"):
        processes.load_image(tmp_path)


def test_the_node_says_what_it_is(processes: Cluster) -> None:
    node = json.loads(processes.kubectl("get", "nodes", "-o", "json"))["items"][0]
    assert "STAND-IN" in node["metadata"]["annotations"]["finetune.dev/process-node"]
    assert "STAND-IN" in processes.log("process-node", lines=1000)
