"""The newest state of the world."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_api.base import format_time
from finetune_api.names import LABEL_JOB_UID, LABEL_SWEEP_UID
from finetune_operator.kube import store as store_module
from finetune_operator.kube.client import EVENTS, FINETUNEJOBS, JOBS, PODS, Resource
from finetune_operator.kube.projection import project
from finetune_operator.kube.store import Store
from tests.support.manifests import Manifest, merge
from tests.support.world import JOB_UID, NOW, UID, at, build_failed_create, build_finetunejob, build_pod, build_stored_job


def _body(version: int, phase: str = "Pending") -> Manifest:
    return build_finetunejob(status={"phase": phase}, version=version)


def _phase(store: Store) -> str | None:
    body = store.finetunejob(UID)
    return body["status"]["phase"] if body is not None else None


def test_the_newer_one_stays() -> None:
    store = Store()
    assert store.put(FINETUNEJOBS, _body(5, "Running")) == UID
    assert store.put(FINETUNEJOBS, _body(4, "Pending")) is None
    assert store.put(FINETUNEJOBS, _body(5, "Pending")) is None
    assert _phase(store) == "Running"
    assert store.put(FINETUNEJOBS, _body(6, "Succeeded")) == UID
    assert _phase(store) == "Succeeded"


def test_versions_are_numbers_and_no_text() -> None:
    store = Store()
    store.put(FINETUNEJOBS, _body(9))
    assert store.put(FINETUNEJOBS, _body(10, "Running")) == UID


def test_a_newer_version_that_says_the_same_concerns_nobody_and_is_kept() -> None:
    store = Store()
    store.put(FINETUNEJOBS, _body(5))
    assert store.put(FINETUNEJOBS, _body(6)) is None
    body = store.finetunejob(UID)
    assert body is not None
    assert body["metadata"]["resourceVersion"] == "6"


@pytest.mark.parametrize(
    ("resource", "body"),
    [(FINETUNEJOBS, _body(5)), (JOBS, build_stored_job()), (PODS, build_pod()), (EVENTS, build_failed_create("no room"))],
    ids=lambda each: getattr(each, "plural", ""),
)
def test_what_is_kept_of_what_is_kept_is_the_same(resource: Resource, body: Manifest) -> None:
    assert project(resource, project(resource, body)) == project(resource, body)


def test_runs_with_the_same_settings_share_them() -> None:
    """Ten thousand runs hardly differ: what each keeps for itself is what is its own."""
    store = Store()
    for uid, epochs in (("a", 1), ("b", 1), ("c", 2)):
        spec = {"training": {"epochs": epochs}, "model": {"uri": f"hf://example/{uid}"}}
        store.put(FINETUNEJOBS, {**build_finetunejob(uid=uid), "spec": spec})
    specs = {body["metadata"]["uid"]: body["spec"] for body in store.finetunejobs()}
    assert specs["a"]["training"] is specs["b"]["training"]
    assert [specs[uid]["training"]["epochs"] for uid in "abc"] == [1, 1, 2]
    assert [specs[uid]["model"]["uri"] for uid in "abc"] == ["hf://example/a", "hf://example/b", "hf://example/c"]


def test_a_list_of_what_is_here_takes_no_room() -> None:
    store = Store()
    store.put(FINETUNEJOBS, _body(5))
    assert store.keep(FINETUNEJOBS, _body(5)) is store.finetunejob(UID)
    newer = store.keep(FINETUNEJOBS, _body(6, "Running"))
    assert list(store.replace(FINETUNEJOBS, [newer], 7)) == [UID]
    assert store.finetunejob(UID) is newer


def test_what_a_job_counts_besides_its_end_concerns_nobody() -> None:
    store = Store()
    store.put(JOBS, build_stored_job(version=10))
    counting = merge(build_stored_job(version=11), {"status": {"active": 1, "ready": 0, "startTime": "2026-01-02T03:04:05Z"}})
    assert store.put(JOBS, counting) is None
    assert store.put(JOBS, merge(counting, {"metadata": {"resourceVersion": "12"}, "status": {"failed": 1}})) == UID


@pytest.mark.parametrize(
    ("listed", "seconds", "born"),
    [(False, 1, True), (False, 0, False), (True, 1, False)],
    ids=["seen later and younger", "not younger by its own time", "listed"],
)
def test_what_nobody_else_can_have_worked_on(listed: bool, seconds: int, born: bool) -> None:
    store = Store()
    body = build_finetunejob(creationTimestamp=format_time(at(seconds)))
    if listed:
        store.put(FINETUNEJOBS, body)
    store.begin(NOW)
    store.put(FINETUNEJOBS, body)
    assert store.is_born_since(UID) is born
    store.remove(FINETUNEJOBS, body)
    assert not store.is_born_since(UID)


def test_without_the_server_s_time_nothing_counts_as_new() -> None:
    store = Store()
    store.begin(None)
    store.put(FINETUNEJOBS, build_finetunejob())
    assert not store.is_born_since(UID)


def test_what_was_deleted_does_not_come_back_by_a_late_answer() -> None:
    store = Store()
    store.put(FINETUNEJOBS, _body(5))
    assert store.remove(FINETUNEJOBS, _body(6)) == UID
    assert store.put(FINETUNEJOBS, _body(7)) is None
    assert store.finetunejob(UID) is None


def test_the_memory_of_deleted_objects_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "TOMBSTONES_KEPT", 3)
    store = Store()
    for number in range(5):
        store.remove(FINETUNEJOBS, build_finetunejob(uid=f"uid-{number}"))
    assert store.put(FINETUNEJOBS, build_finetunejob(uid="uid-0")) == "uid-0"
    assert store.put(FINETUNEJOBS, build_finetunejob(uid="uid-4")) is None


def test_jobs_and_pods_lead_to_their_run() -> None:
    store = Store()
    assert store.put(JOBS, build_stored_job()) == UID
    assert store.put(PODS, build_pod()) == UID
    assert [job["metadata"]["uid"] for job in store.jobs_of(UID)] == [JOB_UID]
    assert [pod["metadata"]["name"] for pod in store.pods_of(UID)] == ["support-bot-pod"]


def test_a_stranger_s_job_with_our_label_is_no_job_of_the_run() -> None:
    store = Store()
    strange = merge(build_stored_job(uid="strange"), {"metadata": {"ownerReferences": None}})
    assert store.put(JOBS, strange) == UID
    assert store.jobs_of(UID) == []


def test_a_job_that_another_run_controls_is_no_job_of_this_one() -> None:
    store = Store()
    job = build_stored_job(uid="other")
    job["metadata"]["ownerReferences"][0]["uid"] = "another-run"
    store.put(JOBS, job)
    assert store.jobs_of(UID) == []


def test_what_carries_no_label_concerns_nobody() -> None:
    store = Store()
    assert store.put(PODS, merge(build_pod(), {"metadata": {"labels": {LABEL_JOB_UID: None}}})) is None


def test_removed_children_are_gone_from_the_index() -> None:
    store = Store()
    store.put(PODS, build_pod())
    assert store.remove(PODS, build_pod()) == UID
    assert store.pods_of(UID) == []


def test_a_complete_list_removes_what_is_not_in_it() -> None:
    store = Store()
    store.put(FINETUNEJOBS, build_finetunejob(uid="stays", version=3))
    store.put(FINETUNEJOBS, build_finetunejob(uid="went", version=4))
    listed = [build_finetunejob(uid="stays", version=3), build_finetunejob(uid="new", version=8)]
    assert set(store.replace(FINETUNEJOBS, listed, version=9)) == {"new", "went"}
    assert {body["metadata"]["uid"] for body in store.finetunejobs()} == {"stays", "new"}


def test_what_is_newer_than_the_list_is_not_missing() -> None:
    store = Store()
    store.put(FINETUNEJOBS, build_finetunejob(uid="made-meanwhile", version=10))
    assert list(store.replace(FINETUNEJOBS, [], version=9)) == []
    assert len(store.finetunejobs()) == 1


def test_a_list_of_one_namespace_says_nothing_of_the_others() -> None:
    store = Store()
    store.put(FINETUNEJOBS, build_finetunejob(uid="elsewhere", namespace="team-b"))
    store.put(FINETUNEJOBS, build_finetunejob(uid="here"))
    assert list(store.replace(FINETUNEJOBS, [], 9, "team-a")) == ["here"]
    assert [body["metadata"]["uid"] for body in store.finetunejobs()] == ["elsewhere"]


def test_an_old_list_does_not_take_back_what_a_write_has_shown() -> None:
    store = Store()
    store.put(FINETUNEJOBS, _body(12, "Succeeded"))
    assert list(store.replace(FINETUNEJOBS, [_body(8, "Running")], 9)) == []
    assert _phase(store) == "Succeeded"


def test_a_warning_is_found_by_its_job_whichever_came_first() -> None:
    store = Store()
    assert store.put(EVENTS, build_failed_create("early")) is None
    store.put(JOBS, build_stored_job())
    warning = store.warning_of(JOB_UID)
    assert warning is not None
    assert warning["message"] == "early"
    assert store.put(EVENTS, build_failed_create("later", name="b", version=31)) == UID


def test_the_newest_warning_counts_in_whatever_order_they_are_listed() -> None:
    store = Store()
    store.put(EVENTS, build_failed_create("new", name="a", version=40))
    store.put(EVENTS, build_failed_create("old", name="b", version=30))
    warning = store.warning_of(JOB_UID)
    assert warning is not None
    assert warning["message"] == "new"


def test_a_warning_that_expired_is_forgotten() -> None:
    store = Store()
    store.put(EVENTS, build_failed_create("x"))
    store.remove(EVENTS, build_failed_create("x"))
    assert store.warning_of(JOB_UID) is None


@given(st.permutations([(version, phase) for version, phase in enumerate(["Pending", "Starting", "Running", "Succeeded"], 1)]))
def test_the_order_of_arrival_does_not_matter(arrivals: list[tuple[int, str]]) -> None:
    store = Store()
    for version, phase in arrivals:
        store.put(FINETUNEJOBS, _body(version, phase))
    assert _phase(store) == "Succeeded"


@given(st.permutations([("put", 1), ("put", 2), ("remove", 3), ("put", 3)]))
def test_a_deletion_is_final_in_every_order(arrivals: list[tuple[str, int]]) -> None:
    store = Store()
    for kind, version in arrivals:
        (store.put if kind == "put" else store.remove)(PODS, build_pod(version=version))
    assert store.pods_of(UID) == []


def test_nothing_big_is_kept() -> None:
    store = Store()
    body = build_pod()
    body["metadata"]["managedFields"] = [{"manager": "kubelet"}]
    body["spec"]["volumes"] = [{"name": "work"}]
    store.put(PODS, body)
    (pod,) = store.pods_of(UID)
    assert "managedFields" not in pod["metadata"]
    assert "volumes" not in pod["spec"]


def test_a_sweep_is_told_of_every_change_of_its_trials() -> None:
    told: list[str] = []
    store = Store(on_trial=told.append)
    trial = build_finetunejob(labels={LABEL_SWEEP_UID: "sweep"})
    store.put(FINETUNEJOBS, trial)
    store.put(FINETUNEJOBS, trial)
    assert told == ["sweep"], "once for one version"
    store.put(FINETUNEJOBS, build_finetunejob(uid="other"))
    store.remove(FINETUNEJOBS, trial)
    assert told == ["sweep", "sweep"]
