"""Sweeps against an API server in memory, with the process ending at every call."""

import copy
from collections.abc import Callable
from typing import Any

import pytest

from finetune_api.names import LABEL_SUSPENDED_BY_SWEEP, LABEL_SWEEP_UID
from finetune_operator.kube.client import EVENTS, FINETUNEJOBS, FINETUNESWEEPS, ApiError
from finetune_operator.kube.store import Store
from finetune_operator.sweeps.observe import SweepObserver
from finetune_operator.sweeps.reconcile import RETRY_REFUSED_SECONDS, SweepReconciler
from tests.support.in_memory_api import Call, InMemoryApi
from tests.support.manifests import Manifest, build_sweep_manifest, merge
from tests.support.world import at, build_artifact

UID = "sweep-uid"
NAMESPACE = "team-a"
LOSSES = {"sweep-0": 2.0, "sweep-1": 1.5, "sweep-2": 1.2, "sweep-3": 1.8}
HALVING = {
    "search": {"type": "successive-halving", "trials": 4, "reduction": 2},
    "parameters": [{"path": "training.learningRate", "range": {"min": 1e-5, "max": 1e-3, "scale": "log"}}],
}


class Died(BaseException):
    """The process ended here."""


class Cluster:
    """A sweep, its operator, and trials that end when a test says so."""

    def __init__(self, spec: Manifest | None = None) -> None:
        self.api = InMemoryApi()
        manifest = merge(build_sweep_manifest(namespace=NAMESPACE), {"spec": spec or {}})
        manifest["metadata"] |= {"uid": UID, "generation": 1, "creationTimestamp": "2026-01-02T03:04:05Z"}
        self.api.seed(FINETUNESWEEPS, manifest)
        self.noticed: list[str] = []
        self.restart()

    def restart(self) -> None:
        self.store = Store()
        self.reconciler = SweepReconciler(self.api, self.store, SweepObserver(self.store), self.noticed.append, lambda: at(0))

    async def reconcile(self) -> float | None:
        for resource in (FINETUNESWEEPS, FINETUNEJOBS):
            list(self.store.replace(resource, self.api.all(resource), 10**9))
        return await self.reconciler.reconcile(UID)

    @property
    def sweep(self) -> Manifest:
        return self.api.objects[FINETUNESWEEPS][NAMESPACE, "sweep"]

    @property
    def status(self) -> Manifest:
        status: Manifest = self.sweep.get("status", {})
        return status

    @property
    def trials(self) -> dict[str, Manifest]:
        return {name: body for (_, name), body in self.api.objects[FINETUNEJOBS].items()}

    def change(self, spec: Manifest) -> None:
        body = copy.deepcopy(self.sweep)
        body["spec"] = merge(body["spec"], spec)
        body["metadata"]["generation"] += 1
        self.api.seed(FINETUNESWEEPS, body)

    def end(self, name: str, loss: float | None = 1.0, phase: str = "Succeeded", reason: str = "Completed") -> None:
        metrics = {} if loss is None else {"evalLoss": loss}
        artifact = build_artifact().model_dump(mode="json", exclude_none=True)
        end = {"type": "Succeeded", "status": "True", "reason": reason, "lastTransitionTime": "2026-01-02T03:04:05Z"}
        status = {"phase": phase, "metrics": metrics, "artifacts": [artifact] if phase == "Succeeded" else [], "conditions": [end]}
        self.api.seed(FINETUNEJOBS, {**self.trials[name], "status": status})

    def end_all(self, loss_of: Callable[[str], float]) -> None:
        for name, body in self.trials.items():
            if body.get("status", {}).get("phase") not in ("Succeeded", "Failed"):
                self.end(name, loss_of(name))

    async def run_to_the_end(self, loss_of: Callable[[str], float]) -> None:
        for _ in range(20):
            await self.reconcile()
            if self.status.get("phase") in ("Succeeded", "Failed"):
                return
            self.end_all(loss_of)
        raise AssertionError(self.status)

    def end_reason(self) -> str:
        return next(str(each["reason"]) for each in self.status["conditions"] if each["type"] == "Succeeded")


def loss_of(name: str) -> float:
    return LOSSES[name.partition("-r")[0]]


async def test_no_more_trials_are_on_their_way_than_may_be() -> None:
    cluster = Cluster({"parallelism": 3})
    await cluster.reconcile()
    await cluster.reconcile()
    assert sorted(cluster.trials) == ["sweep-0", "sweep-1", "sweep-2"]
    cluster.end("sweep-1")
    await cluster.reconcile()
    assert sorted(cluster.trials) == ["sweep-0", "sweep-1", "sweep-2", "sweep-3"]
    assert cluster.status["counts"] == {"total": 4, "active": 3, "succeeded": 1, "failed": 0}


async def test_the_best_of_a_grid_is_in_status_with_its_adapter() -> None:
    cluster = Cluster()
    await cluster.run_to_the_end(loss_of)
    best = cluster.status["best"]
    assert (best["name"], best["value"]) == ("sweep-2", 1.2)
    assert best["parameters"] == {"training.learningRate": "0.0002", "method.adapter.r": "8"}
    assert best["artifact"]["digest"] == build_artifact().digest
    assert [trial["value"] for trial in cluster.status["trials"]] == list(LOSSES.values())
    assert (cluster.status["phase"], cluster.end_reason()) == ("Succeeded", "SearchCompleted")
    (event,) = cluster.api.all(EVENTS)
    assert (event["reason"], event["involvedObject"]["kind"]) == ("SearchCompleted", "FineTuneSweep")
    assert "sweep-2 is the best of 4 trials: evalLoss 1.2" in event["message"]


async def test_halving_goes_on_with_the_better_half_and_ends_with_one() -> None:
    cluster = Cluster(HALVING | {"parallelism": 4})
    await cluster.run_to_the_end(loss_of)
    assert sorted(cluster.trials) == ["sweep-0", "sweep-1", "sweep-1-r1", "sweep-2", "sweep-2-r1", "sweep-2-r2", "sweep-3"]
    assert cluster.status["best"]["name"] == "sweep-2-r2"
    assert cluster.status["counts"] == {"total": 7, "active": 0, "succeeded": 7, "failed": 0}


async def test_the_trials_belong_to_the_sweep() -> None:
    cluster = Cluster()
    await cluster.reconcile()
    body = cluster.trials["sweep-0"]
    assert body["metadata"]["ownerReferences"] == [
        {"apiVersion": "finetune.dev/v1alpha1", "kind": "FineTuneSweep", "name": "sweep", "uid": UID, "controller": True}
    ]
    assert body["metadata"]["labels"][LABEL_SWEEP_UID] == UID


async def test_the_runs_that_it_makes_are_worked_on_without_waiting_for_their_watch() -> None:
    cluster = Cluster()
    await cluster.reconcile()
    assert cluster.noticed == [body["metadata"]["uid"] for body in cluster.trials.values()]


async def test_nothing_is_written_while_nothing_changes() -> None:
    cluster = Cluster()
    await cluster.reconcile()
    before = len(cluster.api.writes)
    await cluster.reconcile()
    cluster.restart()
    await cluster.reconcile()
    assert len(cluster.api.writes) == before == 1 + 2


async def test_a_finished_trial_that_a_person_deletes_is_not_trained_again() -> None:
    cluster = Cluster()
    await cluster.reconcile()
    cluster.end("sweep-0", 0.5)
    await cluster.reconcile()
    del cluster.api.objects[FINETUNEJOBS][NAMESPACE, "sweep-0"]
    cluster.restart()
    await cluster.run_to_the_end(loss_of)
    assert "sweep-0" not in cluster.trials
    assert (cluster.status["best"]["name"], cluster.status["best"]["value"]) == ("sweep-0", 0.5)


async def test_a_trial_that_is_deleted_before_its_end_is_made_again() -> None:
    cluster = Cluster()
    await cluster.reconcile()
    del cluster.api.objects[FINETUNEJOBS][NAMESPACE, "sweep-0"]
    await cluster.reconcile()
    assert "sweep-0" in cluster.trials


async def test_suspension_reaches_the_trials_and_leaves_alone_what_a_person_suspended() -> None:
    cluster = Cluster({"parallelism": 3})
    await cluster.reconcile()
    own = cluster.trials["sweep-1"]
    cluster.api.seed(FINETUNEJOBS, {**own, "spec": {**own["spec"], "suspend": True}})
    cluster.change({"suspend": True})
    await cluster.reconcile()
    assert [body["spec"]["suspend"] for body in cluster.trials.values()] == [True, True, True]
    assert cluster.status["phase"] == "Suspended"
    assert cluster.trials["sweep-0"]["metadata"]["labels"][LABEL_SUSPENDED_BY_SWEEP] == "true"
    cluster.change({"suspend": False})
    await cluster.reconcile()
    assert {name: body["spec"]["suspend"] for name, body in cluster.trials.items()} == {"sweep-0": False, "sweep-1": True, "sweep-2": False}
    assert LABEL_SUSPENDED_BY_SWEEP not in cluster.trials["sweep-0"]["metadata"]["labels"]


async def test_a_suspended_sweep_makes_no_trials() -> None:
    cluster = Cluster({"suspend": True})
    await cluster.reconcile()
    assert cluster.trials == {}
    assert cluster.status["phase"] == "Suspended"


async def test_too_many_failures_end_it_once_nothing_is_on_its_way() -> None:
    cluster = Cluster({"maxFailedTrials": 0, "parallelism": 2})
    await cluster.reconcile()
    cluster.end("sweep-0", None, "Failed")
    await cluster.reconcile()
    assert sorted(cluster.trials) == ["sweep-0", "sweep-1"]
    assert cluster.status["phase"] == "Running"
    cluster.end("sweep-1", 1.5)
    await cluster.reconcile()
    assert (cluster.status["phase"], cluster.end_reason()) == ("Failed", "TooManyFailedTrials")
    assert cluster.status["best"]["name"] == "sweep-1"


async def test_a_trial_that_failed_costs_only_itself_and_its_reason_is_kept() -> None:
    """Also once its FineTuneJob is deleted."""
    cluster = Cluster({"parallelism": 4})
    await cluster.reconcile()
    cluster.end("sweep-2", None, "Failed", "OutOfMemory")
    await cluster.reconcile()
    cluster.api.objects[FINETUNEJOBS].pop((NAMESPACE, "sweep-2"))
    for name in ("sweep-0", "sweep-1", "sweep-3"):
        cluster.end(name, LOSSES[name])
    await cluster.reconcile()
    assert (cluster.status["phase"], cluster.status["best"]["name"]) == ("Succeeded", "sweep-1")
    assert {each["name"]: each.get("reason") for each in cluster.status["trials"]} == {**dict.fromkeys(LOSSES), "sweep-2": "OutOfMemory"}
    message = next(each["message"] for each in cluster.status["conditions"] if each["type"] == "Succeeded")
    assert message.endswith("1 failed: sweep-2 (OutOfMemory).")


async def test_trials_without_the_metric_make_no_best() -> None:
    cluster = Cluster({"parallelism": 4})
    await cluster.reconcile()
    for name in LOSSES:
        cluster.end(name, None)
    await cluster.reconcile()
    assert (cluster.status["phase"], cluster.end_reason()) == ("Failed", "ObjectiveMissing")


async def test_a_combination_that_makes_no_run_is_refused_before_any_is_made() -> None:
    cluster = Cluster({"parameters": [{"path": "training.learningRate", "values": [1e-4, 7]}]})
    await cluster.reconcile()
    assert cluster.trials == {}
    condition = next(each for each in cluster.status["conditions"] if each["type"] == "Accepted")
    assert condition["reason"] == "ValidationFailed"
    assert "training.learningRate=7" in condition["message"]


async def test_a_stranger_s_run_of_a_trial_s_name_is_left_alone_and_said() -> None:
    cluster = Cluster()
    stranger = {"metadata": {"name": "sweep-0", "namespace": NAMESPACE, "uid": "stranger", "creationTimestamp": "2026-01-02T03:04:05Z"}}
    stored = cluster.api.seed(FINETUNEJOBS, {**stranger, "spec": {}})
    stored["metadata"]["generation"] = 1
    before = copy.deepcopy(stored)
    assert await cluster.reconcile() == RETRY_REFUSED_SECONDS
    assert cluster.trials["sweep-0"] == before
    assert cluster.end_reason() == "NameTaken"
    assert "FineTuneJob sweep-0 exists and is not of this sweep" in str(cluster.status["conditions"])


async def test_no_trial_is_made_from_a_stale_view() -> None:
    cluster = Cluster()
    stale = copy.deepcopy(cluster.sweep)
    cluster.change({"suspend": True})
    cluster.store.put(FINETUNESWEEPS, stale)
    with pytest.raises(ApiError) as caught:
        await cluster.reconciler.reconcile(UID)
    assert caught.value.conflict
    assert cluster.trials == {}
    await cluster.reconciler.reconcile(UID)
    assert cluster.trials == {}


def _outcome(cluster: Cluster) -> dict[str, Any]:
    conditions = [(each["type"], each["status"], each["reason"]) for each in cluster.status["conditions"]]
    kept = {key: cluster.status[key] for key in ("phase", "counts", "best", "trials")}
    return {**kept, "conditions": conditions, "jobs": {name: body["spec"] for name, body in cluster.trials.items()}}


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("spec", [{}, HALVING], ids=["grid", "halving"])
async def test_dying_at_any_call_changes_nothing_of_the_end(moment: str, spec: Manifest) -> None:
    clean = Cluster(spec)
    await clean.run_to_the_end(loss_of)
    points = len(clean.api.calls)
    assert points >= 8
    for point in range(points):
        cluster = Cluster(spec)
        seen = 0

        def die(_: Call, point: int = point) -> None:
            nonlocal seen
            seen += 1
            if seen == point + 1:
                raise Died

        setattr(cluster.api, moment, die)
        for _ in range(20):
            try:
                await cluster.reconcile()
            except Died:
                cluster.restart()
                continue
            if cluster.status.get("phase") in ("Succeeded", "Failed"):
                break
            cluster.end_all(loss_of)
        assert seen > point
        assert _outcome(cluster) == _outcome(clean), f"died {moment} call {point}"
