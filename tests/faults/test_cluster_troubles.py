"""Troubles of the cluster itself: its memory restarted, rights withdrawn, quotas and policies in the way."""

import asyncio
import time

import pytest

from finetune_api.names import LABEL_MANAGED_BY, MANAGED_BY
from tests.faults.support.bench import Bench, Case
from tests.faults.support.direct import Object, Refused
from tests.faults.support.figures import Figures
from tests.faults.support.node import Script
from tests.faults.support.scenarios import SCENARIOS, measure_clean
from tests.faults.support.witness import JOBS, PODS
from tests.support.operator_process import RELEASE

pytestmark = [pytest.mark.cluster, pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(900)]

COMPLETE, SUSPEND = SCENARIOS[0], SCENARIOS[2]


async def test_etcd_is_killed_and_comes_back(bench: Bench, figures: Figures, full: bool) -> None:
    """One run trains, one is created and one is suspended about the time: none of it is forgotten or done twice."""
    seconds = 60.0 if full else 5.0
    complete, suspend = await measure_clean(bench, COMPLETE), await measure_clean(bench, SUSPEND)
    cases = running, created, suspended = await bench.make_cases(3)
    for case in cases:
        case.patience = 120.0
    running.script.hold = asyncio.Event()
    suspended.script.until_stopped = 1
    async with bench.operate(cases) as lane, lane.kept_alive():
        await asyncio.gather(running.create(), suspended.create())
        await asyncio.gather(running.until_phase("Running"), suspended.until_phase("Running"))
        await asyncio.gather(created.create(), suspended.patch(suspend=True))
        await asyncio.to_thread(bench.cluster.stop, "etcd", kill=True)
        await asyncio.sleep(seconds)
        await asyncio.to_thread(bench.cluster.restart, "etcd")
        began = time.monotonic()
        running.script.hold.set()
        await asyncio.gather(running.converge(complete.state), created.converge(complete.state), suspended.until_phase("Suspended"))
        took = time.monotonic() - began
        await suspended.patch(suspend=False)
        await suspended.converge(suspend.state)
        await bench.check_silence(cases, 3.0, grace=3.0)
        starts = lane.operator.starts
    figures.add(17, f"etcd killed, away for {seconds:.0f} s", f"three runs as in a clean run, {took:.1f} s after; {starts - 1} restarts")


async def test_rights_are_taken_away_and_given_back(bench: Bench, figures: Figures, full: bool) -> None:
    seconds = 60.0 if full else 8.0
    complete = await measure_clean(bench, COMPLETE)
    cases = running, created = await bench.make_cases(2)
    for case in cases:
        case.patience = 180.0
    running.script.hold = asyncio.Event()
    path = f"/apis/rbac.authorization.k8s.io/v1/clusterrolebindings/{await _find_binding(bench)}"
    binding = await bench.api.call("GET", path)
    async with bench.operate(cases) as lane, lane.kept_alive():
        await running.create()
        await running.until_phase("Running")
        await bench.api.call("DELETE", path)
        try:
            await created.create()
            running.script.hold.set()
            await asyncio.sleep(seconds)
            refused = sum("403" in call.outcome for call in lane.proxy.calls)
        finally:
            metadata = {"name": binding["metadata"]["name"]}
            await bench.api.call("POST", path.rpartition("/")[0], {**binding, "metadata": metadata})
        began = time.monotonic()
        await asyncio.gather(running.converge(complete.state), created.converge(complete.state))
        took = time.monotonic() - began
        await bench.check_silence(cases, 3.0, grace=3.0)
        starts = lane.operator.starts
    assert refused, "nothing was refused: this test shows nothing"
    figures.add(
        21,
        f"all rights in the cluster withdrawn for {seconds:.0f} s",
        f"{refused} calls refused, {starts - 1} restarts; both runs as in a clean run {took:.1f} s after they were given back",
    )


async def _find_binding(bench: Bench) -> str:
    bindings = await bench.api.call("GET", "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings")
    (name,) = [
        item["metadata"]["name"]
        for item in bindings["items"]
        if any(subject.get("name") == RELEASE for subject in item.get("subjects") or ())
    ]
    return str(name)


NO_JOBS = {"spec": {"hard": {"count/jobs.batch": "0"}}}
NO_GPUS = {"spec": {"hard": {"requests.nvidia.com/gpu": "0"}}}
SMALL = {"spec": {"limits": [{"type": "Container", "max": {"memory": "1Gi"}}]}}


@pytest.mark.parametrize(
    ("words", "kind", "body", "reason"),
    [
        ("a quota of no Jobs", "resourcequotas", NO_JOBS, "QuotaExceeded"),
        ("a quota of no GPUs", "resourcequotas", NO_GPUS, "QuotaExceeded"),
        ("a LimitRange below the run's memory", "limitranges", SMALL, "PolicyRefused"),
        ("Pod Security that the namespace's own rule breaks", "", {}, "PolicyRefused"),
    ],
    ids=["jobs", "gpus", "limits", "pod-security"],
)
async def test_a_refusal_is_said_and_got_over(bench: Bench, figures: Figures, words: str, kind: str, body: Object, reason: str) -> None:
    """What quota or policy refuses is tried again without counting as a crash; once it is allowed the run goes as any other."""
    complete = await measure_clean(bench, COMPLETE)
    (case,) = await bench.make_cases(1)
    case.patience = 120.0
    async with bench.operate([case]):
        take_back = await _obstruct(case, kind, body)
        began = time.monotonic()
        await case.create(backoffLimit=0)
        await case.until(lambda: _reason(case) == reason, f"the reason {reason}")
        said = time.monotonic() - began
        assert not case.find(PODS)
        await take_back()
        began = time.monotonic()
        await case.converge(complete.state)
        took = time.monotonic() - began
        await bench.check_silence([case], 2.0)
    assert said <= 10.0
    figures.add(22, words, f"{reason} said after {said:.1f} s; once it is lifted the run is done {took:.1f} s after, with backoffLimit 0")


class _Restore:
    """Lifts what stands in the way."""

    def __init__(self, case: Case, method: str, path: str, body: Object | None) -> None:
        self._case, self._method, self._path, self._body = case, method, path, body

    async def __call__(self) -> None:
        await self._case.bench.api.call(self._method, self._path, self._body)


async def _obstruct(case: Case, kind: str, body: Object) -> _Restore:
    api, namespace = case.bench.api, f"/api/v1/namespaces/{case.namespace}"
    if kind:
        await api.call("POST", f"{namespace}/{kind}", {"metadata": {"name": "obstacle"}, **body})
        if kind == "resourcequotas":
            await _until_counted(case, f"{namespace}/{kind}/obstacle")
        return _Restore(case, "DELETE", f"{namespace}/{kind}/obstacle", None)
    # The trainer's pod is held to the strictest of the standards; what else may refuse a pod is an admission policy.
    policy, binding = _build_policy(case.namespace)
    root = "/apis/admissionregistration.k8s.io/v1"
    await api.call("POST", f"{root}/validatingadmissionpolicies", policy)
    await api.call("POST", f"{root}/validatingadmissionpolicybindings", binding)
    await _until_enforced(case)
    return _Restore(case, "DELETE", f"{root}/validatingadmissionpolicybindings/{case.namespace}", None)


def _build_policy(namespace: str) -> tuple[Object, Object]:
    rules = [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}]
    metadata = {"name": namespace}
    policy = {
        "metadata": metadata,
        "spec": {
            "matchConstraints": {"resourceRules": rules},
            "validations": [{"expression": "false", "message": "no pods here today"}],
        },
    }
    selector = {"matchLabels": {"kubernetes.io/metadata.name": namespace}}
    binding = {
        "metadata": metadata,
        "spec": {"policyName": namespace, "validationActions": ["Deny"], "matchResources": {"namespaceSelector": selector}},
    }
    return policy, binding


async def _until_counted(case: Case, path: str) -> None:
    async with asyncio.timeout(30):
        while not (await case.bench.api.call("GET", path)).get("status", {}).get("hard"):  # noqa: ASYNC110  # nothing tells
            await asyncio.sleep(0.05)


async def _until_enforced(case: Case) -> None:
    """Wait until the API server goes by the policy: it reads policies by a watch of its own."""
    pod = {"metadata": {"name": "probe"}, "spec": {"containers": [{"name": "probe", "image": "none"}]}}
    async with asyncio.timeout(30):
        while True:
            try:
                await case.bench.api.call("POST", f"/api/v1/namespaces/{case.namespace}/pods?dryRun=All", pod)
            except Refused as refusal:
                if "no pods here today" in str(refusal):
                    return
            await asyncio.sleep(0.05)


def _reason(case: Case) -> str | None:
    conditions = (case.body or {}).get("status", {}).get("conditions", ())
    return next((condition["reason"] for condition in conditions if condition["type"] == "Succeeded"), None)


@pytest.mark.parametrize("moment", ["trains", "has ended"])
async def test_deleted_while_the_operator_is_down(bench: Bench, figures: Figures, moment: str) -> None:
    (case,) = await bench.make_cases(1)
    async with bench.operate([case]) as lane:
        if moment == "trains":
            bench.node.scripts[case.namespace] = Script(until_stopped=9)
        await case.create()
        await case.until_phase("Running" if moment == "trains" else "Succeeded")
        await lane.stop()
        await case.delete()
        await lane.start()
        await case.until(lambda: not bench.witness.current[case.namespace], "all is gone")
        assert not case.find(JOBS)
        case.check()
        await bench.check_silence([case], 2.0)
        writes = [call for call in lane.proxy.writes() if call.namespace == case.namespace]
        selector = f"?labelSelector={LABEL_MANAGED_BY}%3D{MANAGED_BY}"
        left = await bench.api.call("GET", f"/api/v1/namespaces/{case.namespace}/secrets{selector}")
        assert not left["items"]
    assert writes
    figures.add(24, f"deleted while the operator is down and the run {moment}", "nothing is left, and nothing is written after the restart")
