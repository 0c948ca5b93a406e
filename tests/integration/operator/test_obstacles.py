"""What keeps a pod from running is said in the condition, in words, within ten seconds: on the real scheduler and admission plugins."""

import time
from dataclasses import dataclass, field

import pytest

from finetune_api.reasons import Reason
from tests.support.live_run import LiveRun, NewRun
from tests.support.manifests import Manifest

pytestmark = pytest.mark.cluster
SECONDS = 10.0


@dataclass(frozen=True)
class Obstacle:
    """Something in the way of a run, and what is to be said of it."""

    name: str
    reason: Reason
    words: str
    spec: Manifest = field(default_factory=dict)
    path: str = ""
    body: Manifest = field(default_factory=dict)
    phase: str = "Pending"

    def __str__(self) -> str:
        """Return the name, for pytest."""
        return self.name


def _quota(hard: Manifest) -> Manifest:
    return {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "gpus"}, "spec": {"hard": hard}}


LIMIT_RANGE = {
    "apiVersion": "v1",
    "kind": "LimitRange",
    "metadata": {"name": "memory"},
    "spec": {"limits": [{"type": "Container", "max": {"memory": "8Gi"}}]},
}
OBSTACLES = [
    Obstacle(
        "no such node",
        Reason.NO_FITTING_NODE,
        "none has the labels of the node selector (example.com/pool=none)",
        {"pod": {"nodeSelector": {"example.com/pool": "none"}}},
    ),
    Obstacle(
        "no GPU is labelled",
        Reason.NO_FITTING_NODE,
        "no node has the label nvidia.com/gpu.memory",
        {"resources": {"minGpuMemory": "80Gi"}},
    ),
    Obstacle(
        "no such GPU",
        Reason.NO_FITTING_NODE,
        "none has nvidia.com/mig-3g.40gb (resources.gpuResource); there is nvidia.com/gpu",
        {"resources": {"gpuResource": "nvidia.com/mig-3g.40gb"}},
    ),
    Obstacle("too much memory", Reason.NO_FITTING_NODE, "the most memory on one that fits otherwise is", {"resources": {"memory": "60Ti"}}),
    Obstacle(
        "quota of GPUs",
        Reason.QUOTA_EXCEEDED,
        "exceeded quota: gpus, requested: requests.nvidia.com/gpu=1",
        path="resourcequotas",
        body=_quota({"requests.nvidia.com/gpu": "0"}),
    ),
    Obstacle("quota of Jobs", Reason.QUOTA_EXCEEDED, "count/jobs.batch", path="resourcequotas", body=_quota({"count/jobs.batch": "0"})),
    Obstacle("limit range", Reason.POLICY_REFUSED, "maximum memory usage per Container is 8Gi", path="limitranges", body=LIMIT_RANGE),
    Obstacle(
        "no such PriorityClass",
        Reason.POLICY_REFUSED,
        "no PriorityClass with name research was found",
        {"scheduling": {"priorityClassName": "research"}},
    ),
]


@pytest.mark.parametrize("obstacle", OBSTACLES, ids=str)
def test_it_is_said_in_time(new_run: NewRun, obstacle: Obstacle, capsys: pytest.CaptureFixture[str]) -> None:
    run: LiveRun = new_run()
    if obstacle.path:
        path = f"/api/v1/namespaces/{run.namespace}/{obstacle.path}"
        run.client.request("POST", path, obstacle.body)
        _wait_for_usage(run, path, obstacle)
    began = time.monotonic()
    run.apply(obstacle.spec)
    condition = run.wait_reason(obstacle.reason, seconds=SECONDS)
    took = time.monotonic() - began
    with capsys.disabled():
        print(f"\n{obstacle.name}: {obstacle.reason} after {took:.1f} s: {condition['message'][:150]}", end=" ")  # noqa: T201
    assert obstacle.words in condition["message"]
    assert run.status["phase"] == obstacle.phase
    assert run.condition("Admitted")["status"] == "False"
    _stays_silent(run)


def _wait_for_usage(run: LiveRun, path: str, obstacle: Obstacle) -> None:
    """A quota binds once its controller has counted what is used."""
    if obstacle.path != "resourcequotas":
        return
    deadline = time.monotonic() + 20
    while "hard" not in run.client.request("GET", f"{path}/gpus").get("status", {}):
        assert time.monotonic() < deadline, "the quota is not counted"
        time.sleep(0.05)


def _stays_silent(run: LiveRun) -> None:
    """The Job controller tries again and again, under other names: none of it is written."""
    before = run.get()["metadata"]["resourceVersion"]
    time.sleep(2.5)
    assert run.get()["metadata"]["resourceVersion"] == before, run.explain()


def test_a_run_goes_on_by_itself_once_the_quota_has_room(new_run: NewRun) -> None:
    run = new_run()
    path = f"/api/v1/namespaces/{run.namespace}/resourcequotas"
    quota = next(each for each in OBSTACLES if each.name == "quota of GPUs")
    run.client.request("POST", path, quota.body)
    _wait_for_usage(run, path, quota)
    run.apply()
    run.wait_reason(Reason.QUOTA_EXCEEDED)
    run.client.request("DELETE", f"{path}/gpus")
    run.wait_phase("Running", 60)


def test_a_namespace_under_the_restricted_standard_takes_the_trainer_s_pod(new_run: NewRun) -> None:
    run = new_run()
    labels = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn", "audit")}
    run.client.request("PATCH", f"/api/v1/namespaces/{run.namespace}", {"metadata": {"labels": labels}}, "application/merge-patch+json")
    run.apply({"model": {"uri": "pvc://models/m", "credentialsSecret": {"name": "s"}}, "resources": {"ephemeralStorage": "1Gi"}})
    run.wait_job()
    # The claim does not exist, so the pod is never bound; that it was made is what admission has to say.
    run.wait_pod("Pending")
