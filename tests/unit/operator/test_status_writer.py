"""Writing status: what the API server's refusal tells of the object."""

import pytest

from finetune_api.report import JobReference
from finetune_operator.kube.client import FINETUNEJOBS, ApiError
from finetune_operator.kube.status_writer import StatusWriter
from finetune_operator.kube.store import Store
from tests.support.in_memory_api import Call, InMemoryApi
from tests.support.world import UID, build_finetunejob


async def _write(api: InMemoryApi) -> Store:
    """Write to a run that only the store knows; return the store."""
    store, body = Store(), build_finetunejob()
    store.put(FINETUNEJOBS, body)
    ref = JobReference(namespace=body["metadata"]["namespace"], name=body["metadata"]["name"], uid=UID)
    with pytest.raises(ApiError):
        await StatusWriter(api, store, FINETUNEJOBS).write(ref, body["metadata"]["resourceVersion"], {"phase": "Running"})
    return store


async def test_a_run_that_is_gone_is_forgotten_and_not_written_to_again() -> None:
    assert (await _write(InMemoryApi())).finetunejob(UID) is None


async def test_a_server_that_does_not_serve_the_kind_says_nothing_of_the_run() -> None:
    def refuse(call: Call) -> None:
        raise ApiError(404, "NotFound", "the server could not find the requested resource", call.method)

    api = InMemoryApi()
    api.before = refuse
    assert (await _write(api)).finetunejob(UID) is not None
