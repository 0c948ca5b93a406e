"""Writing status: what the API server's refusal tells of the object."""

from contextlib import suppress

import pytest

from finetune_operator.kube.client import FINETUNEJOBS, ApiError
from finetune_operator.kube.status_writer import StatusWriter
from finetune_operator.kube.store import Store
from finetune_operator.objects import version_of
from tests.support.in_memory_api import Call, InMemoryApi
from tests.support.manifests import Manifest, merge
from tests.support.world import UID, build_finetunejob


async def _write(api: InMemoryApi) -> Store:
    """Write to a run that only the store knows; return the store."""
    store, body = Store(), build_finetunejob()
    store.put(FINETUNEJOBS, body)
    with pytest.raises(ApiError):
        await StatusWriter(api, store, FINETUNEJOBS).write(body, {"phase": "Running"})
    return store


async def test_a_run_that_is_gone_is_forgotten_and_not_written_to_again() -> None:
    assert (await _write(InMemoryApi())).finetunejob(UID) is None


async def test_a_server_that_does_not_serve_the_kind_says_nothing_of_the_run() -> None:
    def refuse(call: Call) -> None:
        raise ApiError(404, "NotFound", "the server could not find the requested resource", call.method)

    api = InMemoryApi()
    api.before = refuse
    assert (await _write(api)).finetunejob(UID) is not None


async def _write_among_others(*changes: Manifest) -> tuple[InMemoryApi, Store, Manifest]:
    """Write while others make one of the ``changes``, and an annotation, before each try; return the run as it then is, too."""
    api, store = InMemoryApi(), Store()
    body = api.seed(FINETUNEJOBS, build_finetunejob(status={"phase": "Pending", "message": "waits"}))
    store.put(FINETUNEJOBS, body)
    turns = enumerate(changes)

    def interfere(call: Call) -> None:
        if call.subresource == "status" and (turn := next(turns, None)) is not None:
            number, change = turn
            api.seed(FINETUNEJOBS, merge(api.all(FINETUNEJOBS)[0], merge(change, {"metadata": {"annotations": {"turn": str(number)}}})))

    api.before = interfere
    with suppress(ApiError):
        await StatusWriter(api, store, FINETUNEJOBS).write(body, {"phase": "Running", "message": None})
    return api, store, api.all(FINETUNEJOBS)[0]


async def test_a_write_is_sent_again_at_once_where_others_have_changed_nothing_that_a_decision_reads() -> None:
    api, store, body = await _write_among_others({}, {})
    assert body["status"] == {"phase": "Running"}
    assert body["metadata"]["annotations"] == {"turn": "1"}, "others' writes are kept, also the one between the look and the write"
    assert (store.finetunejob(UID) or {})["status"] == {"phase": "Running"}
    assert len(api.writes) == 2


CHANGES = [
    {"spec": {"suspend": True}, "metadata": {"generation": 2}},
    {"status": {"attempt": 1}},
    {"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z", "generation": 2}},
    {"metadata": {"labels": {"team": "b"}}},
]


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("before", [(), ({},)], ids=["before the first try", "before the second"])
async def test_what_changes_a_decision_is_decided_anew(before: tuple[Manifest, ...], change: Manifest) -> None:
    api, store, body = await _write_among_others(*before, change)
    assert body["status"]["phase"] == "Pending"
    assert len(api.writes) == len(before) + 1
    if not before:
        assert version_of(store.finetunejob(UID) or {}) == api.version


@pytest.mark.parametrize("moment", ["GET", "PATCH"])
async def test_a_run_that_goes_while_others_write_is_forgotten(moment: str) -> None:
    api, store = InMemoryApi(), Store()
    body = api.seed(FINETUNEJOBS, build_finetunejob())
    store.put(FINETUNEJOBS, body)
    api.seed(FINETUNEJOBS, merge(body, {"metadata": {"annotations": {"others": "write"}}}))

    def interfere(call: Call) -> None:
        if len(api.calls) > 1 and call.method == moment:
            api.objects[FINETUNEJOBS].clear()

    api.before = interfere
    with pytest.raises(ApiError) as refusal:
        await StatusWriter(api, store, FINETUNEJOBS).write(body, {"phase": "Running"})
    assert refusal.value.not_found
    assert store.finetunejob(UID) is None
