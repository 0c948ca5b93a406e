"""Sweeps on a real API server: the CRD's rules, the trials, the garbage collector."""

import itertools
from typing import Any

import pytest

from finetune_api.exit_codes import ExitCode
from finetune_api.progress import Metrics
from finetune_api.reasons import Reason
from finetune_devcluster import Cluster
from finetune_devcluster.api_client import ApiError
from tests.integration.operator.conftest import wait_for_account
from tests.support.fake_node import FakeNode, Script
from tests.support.live_run import LiveRun, wait_until
from tests.support.live_sweep import LiveSweep
from tests.support.operator_process import OperatorProcess
from tests.support.world import build_summary

pytestmark = pytest.mark.cluster


@pytest.fixture
def sweep(control_plane: Cluster, node: FakeNode, operator: OperatorProcess, namespace: str) -> LiveSweep:  # noqa: ARG001
    """A sweep that is not applied yet, in a fresh namespace."""
    wait_for_account(control_plane, namespace)
    return LiveSweep(control_plane, node, namespace)


def test_a_grid_runs_to_its_end_and_names_the_best(sweep: LiveSweep) -> None:
    for index, loss in enumerate((2.0, 1.5, 1.2, 1.8)):
        sweep.will_end(f"sweep-{index}", loss)
    sweep.apply()
    wait_until(lambda: sweep.status.get("phase") == "Succeeded", "the sweep has succeeded", 60, sweep.explain)
    status = sweep.status
    assert (status["best"]["name"], status["best"]["value"]) == ("sweep-2", 1.2)
    assert status["best"]["artifact"]["digest"].startswith("sha256:")
    assert status["counts"] == {"total": 4, "active": 0, "succeeded": 4, "failed": 0}
    (line,) = sweep.cluster.kubectl("get", "fts", "-n", sweep.namespace, "--no-headers").splitlines()
    assert line.split()[:7] == ["sweep", "Succeeded", "4", "0", "4", "0", "sweep-2"]


def test_halving_trains_the_better_ones_longer(sweep: LiveSweep) -> None:
    for name, loss in {
        "sweep-0": 2.0,
        "sweep-1": 1.5,
        "sweep-2": 1.2,
        "sweep-3": 1.8,
        "sweep-1-r1": 1.1,
        "sweep-2-r1": 1.15,
        "sweep-1-r2": 1.0,
    }.items():
        sweep.will_end(name, loss)
    search = {"type": "successive-halving", "trials": 4, "reduction": 2}
    sweep.apply({"search": search, "parallelism": 4, "template": {"spec": {"training": {"maxSteps": 100}}}})
    wait_until(lambda: sweep.status.get("phase") == "Succeeded", "the sweep has succeeded", 60, sweep.explain)
    assert sweep.status["best"]["name"] == "sweep-1-r2"
    steps = {name: trial["spec"]["training"]["maxSteps"] for name, trial in sweep.trials().items()}
    assert steps == {
        **dict.fromkeys(("sweep-0", "sweep-1", "sweep-2", "sweep-3"), 25),
        "sweep-1-r1": 50,
        "sweep-2-r1": 50,
        "sweep-1-r2": 100,
    }


def test_a_trial_that_fails_and_one_that_is_preempted_cost_the_others_nothing(sweep: LiveSweep) -> None:
    """The preempted one keeps its place among those on their way, and is compared like any other once it is through."""
    for index, loss in ((1, 1.5), (2, 1.2)):
        sweep.will_end(f"sweep-{index}", loss)
    sweep.node.scripts[sweep.namespace, "sweep-0"] = Script(iter([(ExitCode.DATA_INVALID, build_summary("failed", Reason.DATA_INVALID))]))
    preempted = LiveRun(sweep.cluster, sweep.node, sweep.namespace, "sweep-3")
    sweep.node.scripts[sweep.namespace, "sweep-3"] = Script()
    sweep.apply({"parallelism": 1})
    wait_until(lambda: "sweep-3" in sweep.trials(), "the last trial is made", 60, sweep.explain)
    preempted.wait_phase("Running")
    preempted.end_pod(75, build_summary("interrupted", Reason.INTERRUPTED, checkpoint_step=4), disrupted=True)
    wait_until(lambda: preempted.status.get("interruptions") == 1, "it was interrupted", 60, sweep.explain)
    counts = {"total": 4, "active": 1, "succeeded": 2, "failed": 1}
    wait_until(lambda: sweep.status.get("counts") == counts, "it is counted as on its way", explain=sweep.explain)
    preempted.wait_phase("Running", 60)
    preempted.end_pod(0, build_summary(metrics=Metrics(loss=1.0, eval_loss=1.0)))
    wait_until(lambda: sweep.status.get("phase") == "Succeeded", "the sweep has succeeded", 60, sweep.explain)
    status = sweep.status
    assert (status["best"]["name"], status["best"]["value"]) == ("sweep-3", 1.0)
    assert {each["name"]: each.get("reason") for each in status["trials"]} == {
        "sweep-0": "DataInvalid",
        **dict.fromkeys(("sweep-1", "sweep-2", "sweep-3")),
    }
    assert "1 failed: sweep-0 (DataInvalid)." in next(each["message"] for each in status["conditions"] if each["type"] == "Succeeded")
    assert preempted.status["restarts"] == 1


def test_trials_of_a_random_search_are_drawn_without_repeating_one_and_go_with_their_sweep(sweep: LiveSweep) -> None:
    sweep.apply({"search": {"type": "random", "trials": 3}, "parallelism": 3})
    trials = wait_until(lambda: found if len(found := sweep.trials()) == 3 else None, "there are trials", explain=sweep.explain)
    drawn = {(trial["spec"]["training"]["learningRate"], trial["spec"]["method"]["adapter"]["r"]) for trial in trials.values()}
    assert len(drawn) == 3
    assert drawn <= set(itertools.product((1e-4, 2e-4), (8, 16)))
    sweep.client.request("DELETE", sweep.path)
    wait_until(lambda: not sweep.trials(), "the trials are gone")


def test_suspending_it_suspends_its_trials(sweep: LiveSweep) -> None:
    sweep.apply()
    wait_until(lambda: len(sweep.trials()) == 2, "there are trials", explain=sweep.explain)
    sweep.client.request("PATCH", sweep.path, {"spec": {"suspend": True}}, "application/merge-patch+json")
    wait_until(
        lambda: [trial.get("status", {}).get("phase") for trial in sweep.trials().values()] == ["Suspended"] * 2,
        "the trials are suspended",
        explain=sweep.explain,
    )
    sweep.client.request("PATCH", sweep.path, {"spec": {"suspend": False}}, "application/merge-patch+json")
    wait_until(lambda: not any(trial["spec"]["suspend"] for trial in sweep.trials().values()), "they go on", explain=sweep.explain)


@pytest.mark.parametrize(
    ("patch", "words"),
    [
        ({"search": {"type": "random"}}, "spec.search.trials"),
        ({"parameters": [{"path": "output.uri", "values": ["s3://b/c"]}]}, "spec.parameters[0].path"),
        ({"parameters": [{"path": "training.seed"}]}, "spec.parameters[0]"),
        ({"parameters": [{"path": "training.seed", "range": {"min": 1, "max": 9}}]}, "a grid needs values"),
        ({"template": {"spec": {"trainig": {}}}}, "spec.template.spec.trainig"),
        ({"template": {"spec": {"dataset": {"evalFraction": 0}}}}, "spec.objective.metric"),
        ({"template": {"spec": {"model": {"uri": "ftp://host/model"}}}}, "spec.template.spec.model.uri"),
    ],
)
def test_a_wrong_sweep_is_refused_by_the_api_server(control_plane: Cluster, node: FakeNode, namespace: str, patch: Any, words: str) -> None:
    with pytest.raises(ApiError) as caught:
        LiveSweep(control_plane, node, namespace).apply(patch, dry_run=True)
    assert words in str(caught.value)


def test_what_is_tried_cannot_be_changed_and_how_many_at_once_can(sweep: LiveSweep) -> None:
    sweep.apply({"suspend": True})
    merge_patch = "application/merge-patch+json"
    sweep.client.request("PATCH", sweep.path, {"spec": {"parallelism": 1, "maxFailedTrials": 0}}, merge_patch)
    for change in (
        {"search": {"seed": 1}},
        {"template": {"spec": {"training": {"epochs": 1}}}},
        {"parameters": [{"path": "training.seed", "values": [1]}]},
    ):
        with pytest.raises(ApiError, match="is immutable: create a new FineTuneSweep"):
            sweep.client.request("PATCH", sweep.path, {"spec": change}, merge_patch)
