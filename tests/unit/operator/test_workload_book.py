"""The newest Workload of each Job, whatever the order in which they come."""

from finetune_operator.kueue.workloads import WorkloadBook
from tests.support.manifests import merge
from tests.support.world import JOB_UID, build_workload

OLD, NEW = build_workload(version=40), build_workload(active=False, version=41)
SUCCESSOR = merge(build_workload(version=39), {"metadata": {"uid": "successor", "creationTimestamp": "2026-01-02T03:05:00Z"}})


def test_what_is_older_changes_nothing() -> None:
    book = WorkloadBook()
    assert book.put(NEW) == JOB_UID
    assert book.put(OLD) is None
    kept = book.of_job(JOB_UID)
    assert kept is not None
    assert kept["spec"]["active"] is False


def test_a_job_s_next_workload_takes_the_place_of_the_first_which_then_goes() -> None:
    book = WorkloadBook()
    book.put(OLD)
    assert book.put(SUCCESSOR) == JOB_UID
    assert book.remove(OLD) is None
    assert book.of_job(JOB_UID) is not None


def test_a_list_drops_what_is_gone_and_keeps_what_is_newer_than_it() -> None:
    book = WorkloadBook()
    book.put(NEW)
    assert list(book.replace([], version=40)) == []
    assert list(book.replace([], version=41)) == [JOB_UID]
    assert book.of_job(JOB_UID) is None


def test_a_workload_of_something_else_is_nobody_s() -> None:
    book = WorkloadBook()
    other = merge(OLD, {"metadata": {"ownerReferences": [{"kind": "RayJob", "name": "r", "uid": "u", "controller": True}]}})
    assert book.put(other) is None
    assert book.all() == []


def test_only_what_is_read_is_kept() -> None:
    book = WorkloadBook()
    book.put(OLD)
    kept = book.of_job(JOB_UID)
    assert kept is not None
    assert "podSets" not in kept["spec"]


def test_a_changed_place_is_told_once() -> None:
    book = WorkloadBook()
    assert book.place({"a": 1, "b": 2}) in (["a", "b"], ["b", "a"])
    assert book.place({"a": 1, "b": 1}) == ["b"]
    assert book.place({"a": 1}) == ["b"]
    assert (book.position_of("a"), book.position_of("b")) == (1, None)
