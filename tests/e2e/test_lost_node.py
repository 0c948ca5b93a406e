"""A node that burns: its kubelet and its containers are killed in mid-run, the operator's among them, and nobody is left who could say so.

Nothing is played: the controller manager finds the node silent and marks it, both pods are asked to go and never do, another node comes.
That takes two minutes, most of them waits that Kubernetes and the operator keep on purpose: by `make lost-node`.
"""

import os
from collections.abc import Iterator

import pytest

from finetune_api.names import LABEL_ATTEMPT
from finetune_devcluster.node_config import NODE_NAME
from tests.support.runs import START_SECONDS, Runs
from tests.support.timeline import PODS, Object, condition_of
from tests.support.tiny_run import connect

pytestmark = [
    pytest.mark.node,
    pytest.mark.skipif(os.environ.get("FINETUNE_LOST_NODE") != "1", reason="takes two minutes: make lost-node"),
]

SPARE = "spare-node"
STEPS = 1000
UNREACHABLE = "node.kubernetes.io/unreachable"
NOTICE_SECONDS = 120
"""Longest time until the pods of a silent node are asked to go: the cluster's grace of 16 s, counted anew once there is another node, and
the time to delete ten seconds apart."""
GOING_SECONDS = 1
"""Grace period of the run's pods, and how long they stay on a node that does not answer: five minutes where nobody says otherwise."""


@pytest.fixture(scope="module")
def impatient_operator(runs: Runs) -> Iterator[None]:
    """An operator that moves to another node soon, and a cluster that has its own node again afterwards."""
    prefix = "tolerations[0]"
    runs.release.install(
        **{
            f"{prefix}.key": UNREACHABLE,
            f"{prefix}.operator": "Exists",
            f"{prefix}.effect": "NoExecute",
            f"{prefix}.tolerationSeconds": str(GOING_SECONDS),
        }
    )
    yield
    if runs.cluster.components["kubelet"]:
        runs.cluster.lose_node()
    runs.cluster.replace_node(NODE_NAME)
    runs.cluster.kubectl("delete", "node", SPARE, "--ignore-not-found")
    runs.release.install()
    runs.release.kill()


def test_a_run_gets_over_a_node_that_burns(runs: Runs, namespace: str, impatient_operator: None) -> None:
    del impatient_operator
    leave = {"key": UNREACHABLE, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": GOING_SECONDS}
    run = runs.apply(
        namespace,
        "phoenix",
        {
            "training": {"maxSteps": STEPS, "checkpoint": {"everySteps": 50}},
            "scheduling": {"terminationGracePeriodSeconds": GOING_SECONDS},
            "pod": {"tolerations": [leave]},
            "backoffLimit": 0,
        },
    )
    run.wait_step(1)
    store = runs.cluster.object_store
    files = connect(store)
    checkpoints = f"{store.bucket}/adapters/{namespace}/{run.name}/checkpoints/*/step-*/manifest.json"
    runs.timeline.wait(lambda: files.glob(checkpoints), START_SECONDS, "a checkpoint is in the store")
    (lost,) = run.pods()
    runs.cluster.lose_node()
    # Where every node is silent, Kubernetes takes its own network to be at fault, and asks no pod to go.
    runs.cluster.replace_node(SPARE)
    runs.timeline.wait_for(PODS, namespace, lost, _is_asked_to_go, NOTICE_SECONDS, "the lost pod is asked to go")
    runs.release.await_ready()
    ended = run.wait_success()
    status = ended["status"]
    assert (status["attempt"], status["restarts"], status["interruptions"], status.get("failures", 0)) == (1, 1, 1, 0)
    following = run.pods()[-1]
    assert f"going on from the checkpoint of step {STEPS}" not in run.log(following)
    assert "going on from the checkpoint of step " in run.log(following)
    assert [step for step, _ in run.read_losses(ended)] == list(range(1, STEPS + 1)), "every step is counted once"
    pods = {body["metadata"]["name"]: body for body in runs.timeline.alive(PODS, namespace)}
    assert {name: (pod["spec"]["nodeName"], pod["metadata"]["labels"][LABEL_ATTEMPT]) for name, pod in pods.items()} == {
        lost: (NODE_NAME, "0"),
        following: (SPARE, "1"),
    }
    assert _is_asked_to_go(pods[lost]), "nobody has deleted the lost pod by force"
    assert condition_of(pods[lost], "Ready")["status"] == "False"


def _is_asked_to_go(pod: Object) -> bool:
    return "deletionTimestamp" in pod["metadata"]
