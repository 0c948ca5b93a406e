"""The report receiver, spoken to over HTTP; who sent a report is a fake's to say, and whose pod that is the real store's."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from finetune_api.names import REPORT_MAX_BYTES, REPORT_PATH, report_audience
from finetune_operator.kube.client import FINETUNEJOBS, JOBS, PODS, ApiError
from finetune_operator.kube.store import Store
from finetune_operator.reports import receiver as receiver_module
from finetune_operator.reports.authentication import POD_UID, Authenticator, Refused, Sender
from finetune_operator.reports.book import ReportBook
from finetune_operator.reports.receiver import REPORTS_AT_ONCE, Receiver
from tests.support.in_memory_api import InMemoryApi
from tests.support.manifests import Manifest, merge
from tests.support.world import NAME, NAMESPACE, NOW, UID, at, build_finetunejob, build_pod, build_stored_job, running

Client = TestClient[web.Request, web.Application]
POD = "support-bot-pod"


class FakeAuthenticator(Authenticator):
    """Knows its senders by token."""

    def __init__(self) -> None:
        self.senders = {"good": Sender(NAMESPACE, f"uid-{POD}")}
        self.audiences: list[str] = []

    async def authenticate(self, token: str, audience: str) -> Sender:
        self.audiences.append(audience)
        if token == "down":
            raise ApiError(503, "", "the API server is down", "POST")
        if token not in self.senders:
            raise Refused(401, "the token is not valid for this run, or is bound to no pod")
        return self.senders[token]


class Desk:
    """A receiver and what it looks into."""

    def __init__(self) -> None:
        self.store, self.authenticator = Store(), FakeAuthenticator()
        self.book = ReportBook(InMemoryApi(), self.store, lambda: NOW)
        self.receiver = Receiver(self.authenticator, self.store, self.book)
        self.store.put(FINETUNEJOBS, build_finetunejob(status={"phase": "Running"}))
        self.store.put(JOBS, build_stored_job())
        self.store.put(PODS, build_pod(POD, phase="Running", state=running()))
        self.client: Client

    async def post(self, report: Any, token: str | None = "good") -> tuple[int, str]:  # noqa: S107  # no password
        headers = {"Authorization": f"Bearer {token}"} if token is not None else {}
        body = report if isinstance(report, bytes | str) else json.dumps(report)
        async with self.client.post(REPORT_PATH, data=body, headers=headers) as answer:
            text = await answer.text()
            return answer.status, json.loads(text)["message"] if text.startswith("{") else text


@pytest.fixture
async def desk() -> AsyncIterator[Desk]:
    desk = Desk()
    async with TestClient(TestServer(desk.receiver.build_app())) as client:
        desk.client = client
        yield desk


def build_report(patch: Manifest | None = None) -> Manifest:
    report = {
        "job": {"namespace": NAMESPACE, "name": NAME, "uid": UID},
        "sequence": 1,
        "stage": "training",
        "progress": {"percentage": 4, "step": 4, "totalSteps": 100, "epoch": 0.1, "lastUpdatedTime": "2026-01-01T00:00:00Z"},
        "metrics": {"loss": 1.5, "history": [{"step": 1, "loss": 2.0}]},
    }
    merged: Manifest = merge(report, patch or {})
    return merged


async def test_a_report_of_the_run_s_own_pod_is_accepted(desk: Desk) -> None:
    assert await desk.post(build_report()) == (202, "")
    assert desk.authenticator.audiences == [report_audience(UID)]
    assert (desk.receiver.received, desk.receiver.refused) == (1, 0)


BAD_BODIES: dict[str, tuple[Any, str]] = {
    "no JSON": ("{", "EOF"),
    "nothing": ("", "EOF"),
    "a list": ("[]", "object"),
    "NaN": (json.dumps(build_report()).replace("1.5", "NaN"), "metrics.loss"),
    "infinity": (json.dumps(build_report()).replace("1.5", "Infinity"), "metrics.loss"),
    "a number beyond all floats": (json.dumps(build_report()).replace("1.5", "1e999"), "metrics.loss"),
    "a negative step": (build_report({"progress": {"step": -1}}), "progress.step"),
    "a percentage above 100": (build_report({"progress": {"percentage": 101}}), "progress.percentage"),
    "a negative rate": (build_report({"metrics": {"tokensPerSecond": -1}}), "metrics.tokensPerSecond"),
    "a loss beyond belief": (build_report({"metrics": {"loss": 1e300}}), "metrics.loss"),
    "a step beyond 2^53": (build_report({"progress": {"step": 2**60}}), "progress.step"),
    "no sequence": (build_report({"sequence": None}), "sequence"),
    "sequence 0": (build_report({"sequence": 0}), "sequence"),
    "text for a number": (build_report({"sequence": "1"}), "sequence"),
    "an unknown field": (build_report({"phase": "Succeeded"}), "phase"),
    "an unknown stage": (build_report({"stage": "winning"}), "stage"),
    "too many points": (build_report({"metrics": {"history": [{"step": n, "loss": 1.0} for n in range(65)]}}), "metrics.history"),
    "no job": (build_report({"job": None}), "job"),
    "a long device": (build_report({"device": "x" * 129}), "device"),
    "half a surrogate": (json.dumps(build_report()).replace(NAME, "\\ud800"), "Invalid JSON"),
    "bytes that are no text": (b"\xff\xfe", "JSON"),
    "a deep hole": ("[" * 5000, "recursion"),
}


@pytest.mark.parametrize("case", BAD_BODIES)
async def test_a_bad_body_is_refused_and_the_field_named(desk: Desk, case: str) -> None:
    body, field = BAD_BODIES[case]
    status, message = await desk.post(body)
    assert status == 422
    assert field in message
    assert desk.authenticator.audiences == [], "what can't be a report costs the API server nothing"


async def test_a_big_body_is_refused_unread(desk: Desk) -> None:
    status, _ = await desk.post(b" " * 1024 * 1024)
    assert status == 413
    assert desk.authenticator.audiences == []


async def test_the_largest_body_is_read(desk: Desk) -> None:
    body = json.dumps(build_report())
    assert (await desk.post(body + " " * (REPORT_MAX_BYTES - len(body))))[0] == 202


async def test_a_slow_sender_is_cut_off(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receiver_module, "READ_SECONDS", 0.05)

    async def drip() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.sleep(2)
        yield b"}"

    async with desk.client.post(REPORT_PATH, data=drip(), headers={"Authorization": "Bearer good"}) as answer:
        assert answer.status == 408


@pytest.mark.parametrize("header", [None, "", "Basic Z29vZA==", "Bearer", "bearer good"])
async def test_without_a_bearer_token_nothing_is_read(desk: Desk, header: str | None) -> None:
    headers = {"Authorization": header} if header is not None else {}
    async with desk.client.post(REPORT_PATH, data=json.dumps(build_report()), headers=headers) as answer:
        assert answer.status == 401


async def test_an_unknown_token_is_refused(desk: Desk) -> None:
    assert (await desk.post(build_report(), "forged"))[0] == 401


async def test_where_the_api_server_does_not_answer_the_next_report_is_asked_for(desk: Desk) -> None:
    assert await desk.post(build_report(), "down") == (503, "the token can't be checked now; send the next report")


STRANGER = "the token's pod is not a running pod of this run"


@pytest.mark.parametrize(
    "patch",
    [{"job": {"name": "another"}}, {"job": {"namespace": "team-b"}}, {"job": {"uid": "another-uid"}}],
    ids=["name", "namespace", "uid"],
)
async def test_a_report_about_another_run_is_refused(desk: Desk, patch: Manifest) -> None:
    assert await desk.post(build_report(patch)) == (403, STRANGER)


async def test_a_sender_of_another_namespace_is_refused(desk: Desk) -> None:
    desk.authenticator.senders["good"] = Sender("team-b", f"uid-{POD}")
    assert await desk.post(build_report()) == (403, STRANGER)


@pytest.mark.parametrize(
    "pod",
    [
        build_pod("other", phase="Running", state=running(), controller="another-job"),
        build_pod("other", phase="Running", state=running(), controller=None),
        build_pod("other", phase="Running", state=running(), namespace="team-b"),
        build_pod("other", phase="Failed"),
        build_pod("other", phase="Succeeded"),
    ],
    ids=["another Job's", "nobody's", "another namespace's", "failed", "succeeded"],
)
async def test_a_pod_that_is_not_the_run_s_is_refused(desk: Desk, pod: Manifest) -> None:
    """Each carries the run's label: a label is anybody's to set."""
    desk.store.put(PODS, pod)
    desk.authenticator.senders["other"] = Sender(NAMESPACE, "uid-other")
    assert await desk.post(build_report(), "other") == (403, STRANGER)


async def test_a_pod_that_is_not_known_is_refused(desk: Desk) -> None:
    desk.authenticator.senders["other"] = Sender(NAMESPACE, "uid-nowhere")
    assert await desk.post(build_report(), "other") == (403, STRANGER)


async def test_a_pod_of_another_run_s_job_is_refused(desk: Desk) -> None:
    other = merge(build_stored_job(uid="job-other"), {"metadata": {"name": "other"}})
    other["metadata"]["ownerReferences"][0]["uid"] = "other-run"
    desk.store.put(JOBS, other)
    desk.store.put(PODS, build_pod("other", phase="Running", state=running(), controller="job-other"))
    desk.authenticator.senders["other"] = Sender(NAMESPACE, "uid-other")
    assert await desk.post(build_report(), "other") == (403, STRANGER)


@pytest.mark.parametrize("sequence", [1, 2])
async def test_a_replay_is_refused(desk: Desk, sequence: int) -> None:
    assert (await desk.post(build_report({"sequence": 2})))[0] == 202
    assert (await desk.post(build_report({"sequence": sequence})))[0] == 409
    assert (await desk.post(build_report({"sequence": 3})))[0] == 202


async def test_the_old_pod_is_refused_once_the_new_one_runs(desk: Desk) -> None:
    desk.store.put(PODS, build_pod("new", phase="Running", state=running(), created=at(60)))
    desk.authenticator.senders["new"] = Sender(NAMESPACE, "uid-new")
    assert (await desk.post(build_report({"sequence": 50})))[0] == 409
    assert (await desk.post(build_report(), "new"))[0] == 202


@pytest.mark.parametrize("phase", ["Succeeded", "Failed"])
async def test_a_run_that_has_ended_takes_none(desk: Desk, phase: str) -> None:
    desk.store.put(FINETUNEJOBS, build_finetunejob(status={"phase": phase}, version=2))
    assert await desk.post(build_report()) == (409, "the run has ended")


async def test_one_pod_cannot_flood(desk: Desk) -> None:
    answers = [(await desk.post(build_report({"sequence": n})))[0] for n in range(1, int(REPORTS_AT_ONCE) + 2)]
    assert answers == [202] * int(REPORTS_AT_ONCE) + [429]


async def test_there_is_nothing_else_to_ask_for(desk: Desk) -> None:
    async with desk.client.get(REPORT_PATH) as answer:
        assert answer.status == 405
    async with desk.client.post("/") as answer:
        assert answer.status == 404


def _user(namespace: str = NAMESPACE, pod: str | None = f"uid-{POD}") -> Manifest:
    extra = {POD_UID: [pod]} if pod is not None else {}
    return {"username": f"system:serviceaccount:{namespace}:default", "extra": extra}


AUDIENCE = report_audience(UID)


class TestAuthenticator:
    """The real authenticator, over TokenReviews that a fake answers."""

    async def test_a_token_bound_to_a_pod_is_taken(self) -> None:
        api = InMemoryApi()
        api.review = lambda _: {"authenticated": True, "audiences": [AUDIENCE], "user": _user()}
        assert await Authenticator(api).authenticate("token", AUDIENCE) == Sender(NAMESPACE, f"uid-{POD}")
        (call,) = api.calls
        assert call.body["spec"] == {"token": "token", "audiences": [AUDIENCE]}

    @pytest.mark.parametrize(
        "answer",
        [
            {"authenticated": False},
            {"authenticated": True, "user": _user()},
            {"authenticated": True, "audiences": ["https://kubernetes.default.svc"], "user": _user()},
            {"authenticated": True, "audiences": [AUDIENCE], "user": _user(pod=None)},
            {"authenticated": True, "audiences": [AUDIENCE], "user": {**_user(), "username": "alice"}},
            {"error": "token lookup failed"},
        ],
        ids=["forged", "server without audiences", "other audience", "bound to no pod", "a person's", "error"],
    )
    async def test_any_other_is_refused(self, answer: Manifest) -> None:
        api = InMemoryApi()
        api.review = lambda _: answer
        with pytest.raises(Refused) as refusal:
            await Authenticator(api).authenticate("token", AUDIENCE)
        assert refusal.value.status == 401

    @pytest.mark.parametrize("token", ["", "x" * 8193, "tök\udcff"], ids=["none", "huge", "no ASCII"])
    async def test_what_can_be_no_token_is_not_reviewed(self, token: str) -> None:
        api = InMemoryApi()
        with pytest.raises(Refused):
            await Authenticator(api).authenticate(token, AUDIENCE)
        assert api.calls == []

    async def test_the_answer_is_remembered_by_token_and_audience(self) -> None:
        api = InMemoryApi()
        api.review = lambda spec: {"authenticated": True, "audiences": spec["audiences"], "user": _user()}
        authenticator = Authenticator(api)
        for _ in range(3):
            await authenticator.authenticate("token", AUDIENCE)
        assert len(api.calls) == 1
        await authenticator.authenticate("token", report_audience("other"))
        assert len(api.calls) == 2

    async def test_an_answer_that_did_not_come_is_not_remembered(self) -> None:
        api = InMemoryApi()

        def fail(_: object) -> None:
            raise ApiError(0, "TimeoutError", "", "POST")

        api.before = fail
        authenticator = Authenticator(api)
        with pytest.raises(ApiError):
            await authenticator.authenticate("token", AUDIENCE)
        api.before = lambda _: None
        api.review = lambda _: {"authenticated": True, "audiences": [AUDIENCE], "user": _user()}
        assert (await authenticator.authenticate("token", AUDIENCE)).namespace == NAMESPACE

    async def test_a_flood_of_forged_tokens_does_not_reach_the_api_server(self) -> None:
        api = InMemoryApi()
        authenticator = Authenticator(api)
        answers = []
        for number in range(150):
            with pytest.raises(Refused) as refusal:
                await authenticator.authenticate(f"token-{number}", AUDIENCE)
            answers.append(refusal.value.status)
        assert set(answers) == {401, 429}
        assert len(api.calls) < 150
