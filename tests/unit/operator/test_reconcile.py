"""Reconciling, against an API server in memory, with the process ending at every call."""

from typing import Any

import pytest

from finetune_api.defaults import DefaultsByNamespace
from finetune_api.names import LABEL_QUEUE_NAME
from finetune_api.reasons import Reason
from finetune_operator.act import Actor
from finetune_operator.kube.client import EVENTS, FINETUNEJOBS, JOBS, PODS, ApiError
from finetune_operator.kube.store import Store
from finetune_operator.observe import Observer
from finetune_operator.reconcile import RETRY_REFUSED_SECONDS, STATUS_FOLLOWS_SECONDS, Reconciler
from tests.support.in_memory_api import Call, InMemoryApi
from tests.support.manifests import Manifest, merge
from tests.support.world import (
    COMPLETE,
    NAME,
    NAMESPACE,
    NOW,
    TRAINER,
    UID,
    at,
    build_ended_pod,
    build_finetunejob,
    build_pod,
    build_stored_job,
    build_summary,
    running,
)


class Died(BaseException):
    """The process ended here."""


class Operator:
    """The operator over an API server in memory. :meth:`restart` gives it an empty store, as a new process has."""

    def __init__(self, api: InMemoryApi) -> None:
        self.api = api
        self.seconds = 0.0
        self.closed: list[str] = []
        self.restart()

    def close(self, uid: str) -> None:
        self.closed.append(uid)

    def restart(self, defaults: Manifest | None = None) -> None:
        self.store = Store()
        given = DefaultsByNamespace.model_validate({"cluster": defaults or {}})
        observer = Observer(self.store, simulated_gpus=False, defaults=given)
        actor = Actor(self.api, self.store, TRAINER, lambda: None)
        self.reconciler = Reconciler(self.api, self.store, observer, actor, self, lambda: at(self.seconds))

    def see(self) -> None:
        """See everything as it is, as the watches would show it."""
        for resource in (FINETUNEJOBS, JOBS, PODS):
            list(self.store.replace(resource, self.api.all(resource), 10**9))

    async def reconcile(self) -> float | None:
        self.see()
        return await self.reconciler.reconcile(UID)

    async def settle(self) -> None:
        """Reconcile until it changes nothing more."""
        for _ in range(10):
            before = self.api.version
            await self.reconcile()
            if self.api.version == before:
                return
        raise AssertionError("it never comes to rest")


@pytest.fixture
def api() -> InMemoryApi:
    api = InMemoryApi()
    api.seed(FINETUNEJOBS, build_finetunejob())
    return api


def _run(api: InMemoryApi) -> Manifest:
    return api.objects[FINETUNEJOBS][NAMESPACE, NAME]


def _succeeded(run: Manifest) -> Manifest:
    return next(dict(condition) for condition in run["status"]["conditions"] if condition["type"] == "Succeeded")


def _end_job(api: InMemoryApi, words: str = "", exit_code: int = 0) -> None:
    (job,) = api.all(JOBS)
    api.seed(PODS, build_ended_pod(exit_code, words, controller=job["metadata"]["uid"]))
    api.seed(JOBS, merge(job, {"status": {"conditions": [COMPLETE], "succeeded": 1}}))


async def test_a_new_run_costs_one_status_write_and_one_job(api: InMemoryApi) -> None:
    await Operator(api).settle()
    assert [(call.method, call.resource.plural) for call in api.writes] == [("PATCH", "finetunejobs"), ("POST", "jobs")]
    assert _run(api)["status"]["jobName"] == api.all(JOBS)[0]["metadata"]["name"]


def _reign_over_an_empty_cluster(api: InMemoryApi) -> Operator:
    """Return an operator that began before the run was created."""
    operator = Operator(api)
    operator.store.begin(at(-1))
    return operator


async def test_a_run_created_in_our_reign_gets_its_job_first_and_its_status_after(api: InMemoryApi) -> None:
    operator = _reign_over_an_empty_cluster(api)
    assert await operator.reconcile() == STATUS_FOLLOWS_SECONDS
    assert [call.resource for call in api.writes] == [JOBS]
    await operator.settle()
    assert [(call.method, call.resource.plural) for call in api.writes] == [("POST", "jobs"), ("PATCH", "finetunejobs")]
    status = _run(api)["status"]
    assert (status["attempt"], status["jobName"], status["phase"]) == (0, api.all(JOBS)[0]["metadata"]["name"], "Pending")


async def test_a_first_job_that_could_not_be_made_is_claimed_for_the_next_try(api: InMemoryApi) -> None:
    def refuse(call: Call) -> None:
        if call.method == "POST" and call.resource is JOBS:
            raise ApiError(503, "", "busy", "POST")

    api.before = refuse
    operator = _reign_over_an_empty_cluster(api)
    with pytest.raises(ApiError, match="503"):
        await operator.reconcile()
    assert (_run(api)["status"]["attempt"], _run(api)["status"]["phase"]) == (0, "Pending")
    api.before = lambda _: None
    await operator.settle()
    assert len(api.all(JOBS)) == 1


async def test_a_second_attempt_is_claimed_in_our_reign_too(api: InMemoryApi) -> None:
    operator = _reign_over_an_empty_cluster(api)
    await operator.settle()
    _end_job(api)
    api.objects[PODS].clear()
    await operator.settle()
    writes = [(call.method, call.resource.plural) for call in api.writes]
    assert writes.index(("POST", "jobs"), 1) > writes.index(("PATCH", "finetunejobs"), 2)
    assert _run(api)["status"]["attempt"] == 1


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("number", range(2))
async def test_wherever_the_process_ends_in_our_reign_there_is_one_job(api: InMemoryApi, number: int, when: str) -> None:
    def die(_: Call) -> None:
        if len(api.calls) == number + 1:
            raise Died

    setattr(api, when, die)
    operator = _reign_over_an_empty_cluster(api)
    try:
        await operator.settle()
    except Died:
        operator.restart()  # the run is in its first list
        await operator.settle()
    assert len(api.calls) > number
    (job,) = api.all(JOBS)
    status = _run(api)["status"]
    assert (status["attempt"], status["jobName"], status["phase"]) == (0, job["metadata"]["name"], "Pending")


async def test_a_whole_run_costs_no_more_than_its_budget(api: InMemoryApi) -> None:
    operator = Operator(api)
    await operator.settle()
    (job,) = api.all(JOBS)
    for pod in (
        build_pod(node=None, controller=job["metadata"]["uid"]),
        build_pod(controller=job["metadata"]["uid"]),
        build_pod(phase="Running", state=running(), controller=job["metadata"]["uid"]),
    ):
        api.seed(PODS, pod)
        await operator.settle()
    _end_job(api, build_summary())
    await operator.settle()
    assert _run(api)["status"]["phase"] == "Succeeded"
    assert operator.closed == [UID]
    counts = [call.resource for call in api.writes]
    assert counts.count(JOBS) == 1
    assert counts.count(FINETUNEJOBS) <= 4


async def test_a_run_at_rest_costs_nothing(api: InMemoryApi) -> None:
    operator = Operator(api)
    await operator.settle()
    before = len(api.writes)
    for _ in range(5):
        operator.seconds += 600
        await operator.reconcile()
    operator.restart()
    await operator.reconcile()
    assert len(api.writes) == before


async def _writes_of_a_first_start() -> int:
    api = InMemoryApi()
    api.seed(FINETUNEJOBS, build_finetunejob())
    await Operator(api).settle()
    return len(api.calls)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("number", range(6))
async def test_wherever_the_process_ends_there_is_one_job_of_attempt_0(api: InMemoryApi, number: int, when: str) -> None:
    def die(_: Call) -> None:
        if len(api.calls) == number + 1:
            raise Died

    setattr(api, when, die)
    operator = Operator(api)
    try:
        await operator.settle()
    except Died:
        operator.restart()
        await operator.settle()
    (job,) = api.all(JOBS)
    assert job["metadata"]["name"].endswith("-0")
    status = _run(api)["status"]
    assert (status["attempt"], status["jobName"], status["phase"]) == (0, job["metadata"]["name"], "Pending")


async def test_the_process_can_end_at_each_of_those_calls() -> None:
    assert await _writes_of_a_first_start() <= 6


@pytest.mark.parametrize("error", [0, 429, 500, 503])
async def test_a_lost_answer_of_the_job_s_creation_is_no_second_job(api: InMemoryApi, error: int) -> None:
    def lose(call: Call) -> None:
        if call.method == "POST" and call.resource is JOBS:
            api.after = lambda _: None
            raise ApiError(error, "", "lost", "POST")

    api.after = lose
    operator = Operator(api)
    with pytest.raises(ApiError):
        await operator.reconcile()
    # The watch has not shown the Job yet.
    await operator.reconciler.reconcile(UID)
    assert len(api.all(JOBS)) == 1
    await operator.settle()
    assert _run(api)["status"]["attempt"] == 0


async def test_a_stranger_s_job_of_our_name_is_said_and_left_alone(api: InMemoryApi) -> None:
    strange = build_stored_job(uid="strange")
    strange["metadata"]["ownerReferences"] = []
    strange["metadata"]["labels"] = {}
    api.seed(JOBS, strange)
    operator = Operator(api)
    assert await operator.reconcile() == RETRY_REFUSED_SECONDS
    await operator.settle()
    assert api.all(JOBS)[0]["metadata"]["uid"] == "strange"
    assert _succeeded(_run(api))["reason"] == Reason.NAME_TAKEN


async def test_a_refused_job_is_tried_again_and_nothing_else_happens(api: InMemoryApi) -> None:
    def refuse(call: Call) -> None:
        if call.method == "POST" and call.resource is JOBS:
            raise ApiError(403, "Forbidden", 'jobs.batch "x" is forbidden: exceeded quota: jobs, requested: count/jobs.batch=1', "POST")

    api.before = refuse
    operator = Operator(api)
    await operator.settle()
    assert _succeeded(_run(api))["reason"] == Reason.QUOTA_EXCEEDED
    events, version = len(api.all(EVENTS)), api.version
    for _ in range(5):
        operator.seconds += RETRY_REFUSED_SECONDS
        assert await operator.reconcile() == RETRY_REFUSED_SECONDS
    assert api.version == version, "it writes again what it has written"
    assert len(api.all(EVENTS)) == events == 1
    assert _run(api)["status"]["attempt"] == 0
    api.before = lambda _: None
    await operator.settle()
    assert api.all(JOBS)[0]["metadata"]["name"].endswith("-0")


async def test_a_job_is_never_made_from_a_stale_view(api: InMemoryApi) -> None:
    """A run that has ended meanwhile, by another operator's hand: the claim fails, and then it is seen."""
    operator = Operator(api)
    operator.see()
    api.seed(FINETUNEJOBS, merge(_run(api), {"status": {"phase": "Failed"}}))
    with pytest.raises(ApiError, match="409"):
        await operator.reconciler.reconcile(UID)
    await operator.reconciler.reconcile(UID)
    assert api.all(JOBS) == []
    assert _run(api)["status"] == {"phase": "Failed"}


async def test_a_namesake_is_never_written_to(api: InMemoryApi) -> None:
    operator = Operator(api)
    operator.see()
    api.seed(FINETUNEJOBS, build_finetunejob(uid="another-uid"))
    with pytest.raises(ApiError):
        await operator.reconciler.reconcile(UID)
    assert "status" not in _run(api)
    assert await operator.reconciler.reconcile(UID) is None
    assert operator.closed == [UID]


async def test_a_job_deleted_by_hand_is_made_again(api: InMemoryApi) -> None:
    operator = Operator(api)
    await operator.settle()
    (job,) = api.all(JOBS)
    del api.objects[JOBS][NAMESPACE, job["metadata"]["name"]]
    await operator.settle()
    (again,) = api.all(JOBS)
    assert again["metadata"]["uid"] != job["metadata"]["uid"]
    assert again["metadata"]["name"] == job["metadata"]["name"]


async def test_the_next_job_waits_until_the_deleted_one_s_pod_is_gone(api: InMemoryApi) -> None:
    operator = Operator(api)
    await operator.settle()
    (job,) = api.all(JOBS)
    pod = api.seed(PODS, build_pod(phase="Running", state=running(), controller=job["metadata"]["uid"], deleting=True))
    del api.objects[JOBS][NAMESPACE, job["metadata"]["name"]]
    await operator.settle()
    assert api.all(JOBS) == []
    del api.objects[PODS][NAMESPACE, pod["metadata"]["name"]]
    await operator.settle()
    assert len(api.all(JOBS)) == 1


async def test_a_result_that_was_lost_is_looked_for_by_one_more_attempt(api: InMemoryApi) -> None:
    operator = Operator(api)
    await operator.settle()
    _end_job(api)
    api.objects[PODS].clear()
    await operator.settle()
    assert [job["metadata"]["name"][-2:] for job in api.all(JOBS)] == ["-0", "-1"]
    assert _run(api)["status"]["attempt"] == 1


async def test_a_watch_of_pods_that_is_behind_takes_nothing_from_a_success(api: InMemoryApi) -> None:
    operator = Operator(api)
    await operator.settle()
    operator.see()
    _end_job(api, build_summary())
    for job in api.all(JOBS):
        operator.store.put(JOBS, job)  # the Job's end is seen, its pod is not
    await operator.reconciler.reconcile(UID)
    assert _run(api)["status"]["phase"] == "Succeeded"
    assert len(api.all(JOBS)) == 1


async def test_an_event_that_cannot_be_posted_costs_nothing(api: InMemoryApi) -> None:
    def refuse(call: Call) -> None:
        if call.resource is EVENTS:
            raise ApiError(403, "Forbidden", "events is forbidden", "POST")

    api.before = refuse
    operator = Operator(api)
    await operator.settle()
    _end_job(api, build_summary())
    await operator.settle()
    assert _run(api)["status"]["phase"] == "Succeeded"


async def test_events_are_posted_once_and_after_the_status_that_they_speak_of(api: InMemoryApi) -> None:
    operator = Operator(api)
    await operator.settle()
    _end_job(api, build_summary())
    await operator.settle()
    operator.restart()
    await operator.settle()
    kinds = [call.resource for call in api.writes]
    assert [event["reason"] for event in api.all(EVENTS)] == [Reason.COMPLETED]
    assert kinds.index(EVENTS) == len(kinds) - 1
    assert kinds[-2] is FINETUNEJOBS


async def test_children_go_when_their_time_is_over_and_the_run_stays(api: InMemoryApi) -> None:
    operator = Operator(api)
    await operator.settle()
    _end_job(api, build_summary())
    await operator.settle()
    status: dict[str, Any] = _run(api)["status"]
    operator.seconds = 604_800 - 60
    assert await operator.reconcile() == pytest.approx(60)
    operator.seconds = 604_800
    await operator.settle()
    assert api.all(JOBS) == api.all(PODS) == []
    assert _run(api)["status"] == status


async def test_the_end_itself_sets_the_clock_of_the_children(api: InMemoryApi) -> None:
    operator = Operator(api)
    await operator.settle()
    _end_job(api, build_summary())
    assert await operator.reconcile() == 604_800


async def test_where_nothing_is_to_be_kept_the_children_go_at_once(api: InMemoryApi) -> None:
    api.seed(FINETUNEJOBS, build_finetunejob({"ttlSecondsAfterFinished": 0}))
    operator = Operator(api)
    await operator.settle()
    _end_job(api, build_summary())
    assert await operator.reconcile() == 0


@pytest.mark.parametrize("finalizers", [[], ["kueue.x-k8s.io/managed"]], ids=["at once", "once its finalizers are gone"])
async def test_a_job_is_deleted_once_also_where_no_watch_tells_that_it_went(api: InMemoryApi, finalizers: list[str]) -> None:
    operator = Operator(api)
    await operator.settle()
    _end_job(api, build_summary())
    await operator.settle()
    (job,) = api.all(JOBS)
    api.seed(JOBS, merge(job, {"metadata": {"finalizers": finalizers}}))
    operator.seconds = 604_800
    operator.see()
    for _ in range(3):
        await operator.reconciler.reconcile(UID)
    assert [call.name for call in api.writes if call.method == "DELETE"] == [job["metadata"]["name"]]


async def test_a_job_that_was_gone_when_it_was_deleted_is_not_deleted_again(api: InMemoryApi) -> None:
    operator = Operator(api)
    await operator.settle()
    _end_job(api, build_summary())
    await operator.settle()
    operator.seconds = 604_800
    operator.see()
    api.objects[JOBS].clear()
    for _ in range(3):
        await operator.reconciler.reconcile(UID)
    assert len([call for call in api.writes if call.method == "DELETE"]) == 1


async def test_a_queued_run_that_was_suspended_gives_its_job_back(api: InMemoryApi) -> None:
    api.seed(FINETUNEJOBS, build_finetunejob({"scheduling": {"queueName": "team-a"}}))
    operator = Operator(api)
    await operator.settle()
    api.seed(FINETUNEJOBS, merge(_run(api), {"spec": {"suspend": True}, "metadata": {"generation": 2}}))
    await operator.settle()
    assert api.all(JOBS) == []
    assert _run(api)["status"]["phase"] == "Suspended"
    assert at(operator.seconds) >= NOW


async def test_a_deletion_that_was_refused_is_tried_again(api: InMemoryApi) -> None:
    """A 409 means that another object has the name now, or that the API server asks for another try."""
    (job,) = [api.seed(JOBS, build_stored_job())]
    refusals = iter([ApiError(409, "Conflict", "try again", "DELETE")])

    def refuse_once(call: Call) -> None:
        if call.method == "DELETE" and (refusal := next(refusals, None)):
            raise refusal

    api.before = refuse_once
    namespace, name, uid = job["metadata"]["namespace"], job["metadata"]["name"], job["metadata"]["uid"]
    with pytest.raises(ApiError):
        await api.delete(JOBS, namespace, name, uid=uid)
    await api.delete(JOBS, namespace, name, uid="another")
    assert api.all(JOBS)
    await api.delete(JOBS, namespace, name, uid=uid)
    assert not api.all(JOBS)


DEFAULTS: Manifest = {"trainerImage": "team/trainer:2", "nodeSelector": {"pool": "gpu"}, "queueName": "team-a"}


def _made_of(job: Manifest) -> tuple[object, object, object]:
    pod = job["spec"]["template"]["spec"]
    return pod["containers"][0]["image"], pod.get("nodeSelector"), job["metadata"]["labels"].get(LABEL_QUEUE_NAME)


async def test_what_the_platform_gives_is_written_before_anything_is_made_of_it(api: InMemoryApi) -> None:
    operator = _reign_over_an_empty_cluster(api)
    operator.restart(DEFAULTS)
    operator.store.begin(at(-1))
    await operator.settle()
    assert [(call.method, call.resource.plural) for call in api.writes][:2] == [("PATCH", "finetunejobs"), ("POST", "jobs")]
    assert _made_of(api.all(JOBS)[0]) == ("team/trainer:2", {"pool": "gpu"}, "team-a")
    recorded = _run(api)["status"]["defaults"]
    assert (recorded["trainerImage"], recorded["nodeSelector"], recorded["queueName"]) == ("team/trainer:2", {"pool": "gpu"}, "team-a")


@pytest.mark.parametrize("later", [{}, {"trainerImage": "team/trainer:3", "nodeSelector": {"zone": "b"}}], ids=["none", "others"])
async def test_later_defaults_change_no_run_that_was_claimed(api: InMemoryApi, later: Manifest) -> None:
    operator = Operator(api)
    operator.restart(DEFAULTS)
    await operator.settle()
    recorded = _run(api)["status"]["defaults"]
    operator.restart(later)
    await operator.settle()
    _end_job(api)
    api.objects[PODS].clear()  # the result is lost: the run needs another attempt
    await operator.settle()
    assert _run(api)["status"]["attempt"] == 1
    second = max(api.all(JOBS), key=lambda job: str(job["metadata"]["name"]))
    assert _made_of(second) == ("team/trainer:2", {"pool": "gpu"}, "team-a")
    assert _run(api)["status"]["defaults"] == recorded


async def test_a_run_that_was_claimed_without_defaults_never_gets_any(api: InMemoryApi) -> None:
    operator = Operator(api)
    await operator.settle()
    operator.restart(DEFAULTS)
    await operator.settle()
    _end_job(api)
    api.objects[PODS].clear()
    await operator.settle()
    second = max(api.all(JOBS), key=lambda job: str(job["metadata"]["name"]))
    assert _made_of(second) == (TRAINER.image, None, None)
    assert "defaults" not in _run(api)["status"]


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("number", range(3))
async def test_wherever_the_process_ends_job_and_record_agree(api: InMemoryApi, number: int, when: str) -> None:
    """The next process has other defaults: what the first one wrote holds, or else nothing was made of it."""

    def die(_: Call) -> None:
        if len(api.calls) == number + 1:
            raise Died

    setattr(api, when, die)
    operator = _reign_over_an_empty_cluster(api)
    operator.restart(DEFAULTS)
    operator.store.begin(at(-1))
    try:
        await operator.settle()
    except Died:
        operator.restart({"trainerImage": "team/trainer:3"})
        await operator.settle()
    (job,) = api.all(JOBS)
    assert _made_of(job)[0] == _run(api)["status"]["defaults"]["trainerImage"]
