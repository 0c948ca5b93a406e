"""The oracle itself: each promise that it watches over, broken once."""

from collections.abc import Callable

import pytest

from finetune_api.names import LABEL_ATTEMPT, LABEL_JOB_UID
from tests.faults.support.calls import parse_call
from tests.faults.support.direct import Object
from tests.faults.support.oracle import build_state, find_broken_promises
from tests.faults.support.witness import FINETUNEJOBS, JOBS, PODS, Sighting


def _run(**status: object) -> Sighting:
    metadata = {"name": "run", "uid": "u", "creationTimestamp": "2026-01-01T00:00:00Z"}
    return Sighting(FINETUNEJOBS, "MODIFIED", {"metadata": metadata, "spec": {}, "status": status})


def _child(path: str, name: str, status: Object, kind: str = "MODIFIED", *, uid: str = "", attempt: int = 0, owner: str = "u") -> Sighting:
    metadata = {
        "name": name,
        "uid": uid or name,
        "creationTimestamp": "2026-01-01T00:00:00Z",
        "labels": {LABEL_JOB_UID: "u", LABEL_ATTEMPT: str(attempt)},
        "ownerReferences": [{"uid": owner, "controller": True}],
    }
    return Sighting(path, kind, {"metadata": metadata, "spec": {}, "status": status})


COMPLETE: Object = {"conditions": [{"type": "Complete", "status": "True"}]}
Case = tuple[list[Sighting], str | None]

CASES: dict[str, Case] = {
    "a run to its end": ([_run(), _run(phase="Running", attempt=0), _run(phase="Succeeded", attempt=0)], None),
    "a terminal phase is left": ([_run(phase="Succeeded"), _run(phase="Running")], "had ended"),
    "an end changes": ([_run(phase="Failed", restarts=0), _run(phase="Failed", restarts=1)], "had ended"),
    "a status is emptied after the end": ([_run(phase="Failed"), _run()], "had ended"),
    "restarts fall": ([_run(restarts=2), _run(restarts=1)], "restarts fell"),
    "the attempt falls": ([_run(attempt=1), _run()], "attempt fell"),
    "GPU time falls": ([_run(gpuSeconds=5), _run(gpuSeconds=4)], "gpuSeconds fell"),
    "the start moves": ([_run(startTime="a"), _run(startTime="b")], "startTime changed"),
    "progress falls": ([_run(progress={"step": 5}), _run(progress={"step": 4})], "progress fell"),
    "one Job after the other": ([_child(JOBS, "a", COMPLETE), _child(JOBS, "b", {}, attempt=1)], None),
    "two Jobs at once": ([_child(JOBS, "a", {}), _child(JOBS, "b", {}, attempt=1)], "two unfinished Jobs"),
    "two Jobs of an attempt": (
        [_child(JOBS, "a", {}, uid="1"), _child(JOBS, "a", {}, "DELETED", uid="1"), _child(JOBS, "a", {}, uid="2")],
        "2 Jobs of run u, attempt 0",
    ),
    "one pod after the other": ([_child(PODS, "a", {"phase": "Failed"}), _child(PODS, "b", {"phase": "Running"})], None),
    "two pods at once": ([_child(PODS, "a", {"phase": "Running"}), _child(PODS, "b", {"phase": "Running"})], "two running pods"),
}


@pytest.mark.parametrize("name", CASES)
def test_a_broken_promise_is_found(name: str) -> None:
    history, words = CASES[name]
    broken = find_broken_promises(history)
    assert broken == [] if words is None else words in " ".join(broken)


CHANGES: dict[str, Callable[[list[Sighting]], list[Sighting]]] = {
    "a Job that should be gone": lambda current: [*current, _child(JOBS, "other", {}, attempt=1)],
    "a Job that is missing": lambda current: current[:1],
    "another phase": lambda current: [_run(phase="Failed", jobName="run-abcde-0"), current[1]],
    "another count": lambda current: [_run(phase="Succeeded", jobName="run-abcde-0", restarts=1), current[1]],
    "an orphan": lambda current: [current[0], _child(JOBS, "run-abcde-0", COMPLETE, owner="gone")],
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_state_differs_by_what_matters(name: str) -> None:
    current = [_run(phase="Succeeded", jobName="run-abcde-0"), _child(JOBS, "run-abcde-0", COMPLETE)]
    changed = CHANGES[name](current)
    assert build_state(changed, changed) != build_state(current, current)


def test_a_state_does_not_differ_by_names_and_times() -> None:
    one = [_run(phase="Succeeded", jobName="run-abcde-0", startTime="a"), _child(JOBS, "run-abcde-0", COMPLETE)]
    two = [_run(phase="Succeeded", jobName="run-12345-0", startTime="b"), _child(JOBS, "run-12345-0", COMPLETE, uid="other")]
    assert build_state(one, one) == build_state(two, two)


CALLS = {
    ("GET", "/apis/finetune.dev/v1alpha1/namespaces/a/finetunejobs?watch=true"): ("watch finetunejobs", "a", None),
    ("GET", "/apis/batch/v1/jobs?limit=500"): ("list jobs", None, None),
    ("GET", "/api/v1/namespaces/a/pods?labelSelector=x"): ("list pods", "a", None),
    ("GET", "/api/v1/namespaces/a"): ("get namespaces", None, "a"),
    ("PATCH", "/apis/finetune.dev/v1alpha1/namespaces/a/finetunejobs/b/status"): ("patch finetunejobs/status", "a", "b"),
    ("DELETE", "/apis/batch/v1/namespaces/a/jobs/b"): ("delete jobs", "a", "b"),
    ("POST", "/api/v1/namespaces/a/events"): ("create events", "a", None),
    ("GET", "/version"): ("get /version", None, None),
}


@pytest.mark.parametrize("method_and_target", CALLS)
def test_calls_are_told_apart(method_and_target: tuple[str, str]) -> None:
    call = parse_call(0, *method_and_target)
    assert (call.signature, call.namespace, call.name) == CALLS[method_and_target]
