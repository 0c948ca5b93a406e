"""The page's markup and its doors, below a cluster."""

from datetime import UTC, datetime
from html.parser import HTMLParser
from typing import Any

import pytest

from finetune_operator.page.access import NAMESPACES_REVIEWED, Gatekeeper, NotAllowed
from finetune_operator.page.curves import render_charts, render_samples
from finetune_operator.page.render import render_document, render_run, render_runs

NOW = datetime(2026, 1, 1, tzinfo=UTC)
HOSTILE = '"><script>alert(1)</script>'


class Tags(HTMLParser):
    """Collects the names of tags and attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes.update(name for name, _ in attrs)


class Api:
    """Answers reviews by a table of rights, and counts them."""

    def __init__(self, rights: set[tuple[str, str]]) -> None:
        self.rights, self.reviews = rights, 0

    async def create(self, resource: Any, _: None, review: dict[str, Any]) -> dict[str, Any]:
        self.reviews += 1
        spec = review["spec"]
        if resource.plural == "tokenreviews":
            return {"status": {"authenticated": True, "audiences": spec["audiences"], "user": {"username": spec["token"]}}}
        return {"status": {"allowed": (spec["user"], spec["resourceAttributes"]["namespace"]) in self.rights}}


def build_hostile() -> dict[str, Any]:
    artifact = {"name": HOSTILE, "uri": HOSTILE, "digest": HOSTILE, "sizeBytes": HOSTILE}
    status = {
        "phase": HOSTILE,
        "queue": {"name": HOSTILE, "position": HOSTILE},
        "progress": {"percentage": HOSTILE},
        "metrics": {
            "loss": HOSTILE,
            "tasks": [{"name": HOSTILE, "score": HOSTILE}],
            "history": [{"step": HOSTILE, "loss": HOSTILE}],
            "curves": {"steps": [HOSTILE], "gradNorm": [HOSTILE], "memoryBytes": HOSTILE},
            "samples": [{"prompt": HOSTILE, "before": HOSTILE, "after": HOSTILE}],
        },
        "artifacts": [artifact],
        "conditions": [{"type": "Succeeded", "status": "Unknown", "reason": HOSTILE, "message": HOSTILE}],
    }
    metadata = {"name": HOSTILE, "namespace": HOSTILE, "uid": "1", "creationTimestamp": "2026-01-01T00:00:00Z"}
    return {"metadata": metadata, "spec": {"model": {"uri": HOSTILE}}, "status": status}


def test_nothing_from_a_cluster_becomes_markup() -> None:
    body = build_hostile()
    for content in (
        render_run(body, HOSTILE),
        render_runs([body], [HOSTILE], {"namespace": "", "phase": HOSTILE}, NOW, unasked=1, replica=HOSTILE),
        render_runs([body], [HOSTILE], {}, NOW, unasked=0, replica=HOSTILE),
    ):
        tags = Tags()
        tags.feed(render_document(HOSTILE, content, HOSTILE))
        assert tags.tags.count("script") == 1
        assert not any(name.startswith("on") or name == "style" for name in tags.attributes)


def test_a_curve_that_does_not_go_with_its_steps_is_left_out_and_the_others_are_drawn() -> None:
    curves = {
        "steps": [1, 2, 3],
        "learningRate": [1e-4, 2e-4, 3e-4],
        "gradNorm": [1.0],
        "tokensPerSecond": [],
        "memoryBytes": [1, 2, 2**31],
    }
    charts = "".join(render_charts({"history": [{"step": 1, "loss": 2.0}], "curves": curves}))
    assert [title in charts for title in ("Learning rate", "Gradient norm", "Throughput", "Memory of the process (GiB)")] == [
        True,
        False,
        False,
        True,
    ]


def test_an_answer_that_is_still_to_come_is_told_from_one_that_never_was() -> None:
    metrics = {"samples": [{"prompt": "Why?", "before": ""}]}
    assert "not yet" in render_samples(metrics, has_ended=False)
    assert "not yet" not in render_samples(metrics, has_ended=True)
    assert "an empty answer" in render_samples(metrics, has_ended=True)
    assert render_samples({}, has_ended=True) == ""


async def test_an_answer_for_one_token_is_never_used_for_another() -> None:
    gate = Gatekeeper(Api({("ann", "team-a")}), api_tokens=False)  # type: ignore[arg-type]
    ann, bob = await gate.identify("ann"), await gate.identify("bob")
    assert await gate.may_get(ann, "team-a", "run")
    assert not await gate.may_get(bob, "team-a", "run")
    assert await gate.filter_namespaces(ann, ["team-a", "team-b"]) == ({"team-a"}, 0)
    assert await gate.filter_namespaces(bob, ["team-a", "team-b"]) == (set(), 0)


async def test_a_view_asks_the_api_server_a_bounded_number_of_times_and_once() -> None:
    api = Api(set())
    gate = Gatekeeper(api, api_tokens=False)  # type: ignore[arg-type]
    viewer = await gate.identify("ann")
    for _ in range(3):
        assert await gate.filter_namespaces(viewer, [f"n{number}" for number in range(NAMESPACES_REVIEWED + 7)]) == (set(), 7)
    assert api.reviews == 1 + 1 + NAMESPACES_REVIEWED


async def test_a_flood_of_unknown_tokens_is_turned_away_before_it_reaches_the_api_server() -> None:
    api = Api(set())
    gate = Gatekeeper(api, api_tokens=False)  # type: ignore[arg-type]
    statuses = []
    for number in range(300):
        try:
            await gate.identify(f"token-{number}")
        except NotAllowed as refusal:
            statuses.append(refusal.status)
    assert set(statuses) == {429}
    assert api.reviews < 300


async def test_a_token_is_never_shown_by_what_holds_it() -> None:
    gate = Gatekeeper(Api(set()), api_tokens=False)  # type: ignore[arg-type]
    with pytest.raises(NotAllowed) as refused:
        await gate.identify("x" * 5000)
    assert "xxxx" not in str(refused.value)
