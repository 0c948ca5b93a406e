"""What the API server answers to the deletion of a Job: whether it is gone, or only going."""

from typing import Any, Final

import pytest

from finetune_operator.kube.client import JOBS, KubeClient

pytestmark = pytest.mark.cluster

NAME: Final = "job"
POD: Final = {"restartPolicy": "Never", "containers": [{"name": "main", "image": "registry.example.com/nothing:1"}]}


async def _create(kube_client: KubeClient, namespace: str, finalizers: list[str]) -> str:
    metadata: dict[str, Any] = {"name": NAME, "finalizers": finalizers}
    job = await kube_client.create(JOBS, namespace, {"metadata": metadata, "spec": {"suspend": True, "template": {"spec": POD}}})
    uid: str = job["metadata"]["uid"]
    return uid


async def test_a_job_that_nothing_holds_is_gone(kube_client: KubeClient, namespace: str) -> None:
    uid = await _create(kube_client, namespace, [])
    assert await kube_client.delete(JOBS, namespace, NAME, uid=uid) is None
    assert (await kube_client.list(JOBS, namespace)).items == []
    assert await kube_client.delete(JOBS, namespace, NAME, uid=uid) is None


async def test_a_job_that_a_finalizer_holds_is_going(kube_client: KubeClient, namespace: str) -> None:
    uid = await _create(kube_client, namespace, ["example.com/stay"])
    going = await kube_client.delete(JOBS, namespace, NAME, uid=uid)
    try:
        assert going is not None
        assert (going["metadata"]["uid"], "deletionTimestamp" in going["metadata"]) == (uid, True)
    finally:
        await kube_client.merge_patch(JOBS, namespace, NAME, {"metadata": {"finalizers": None}})


async def test_a_namesake_is_left_alone(kube_client: KubeClient, namespace: str) -> None:
    uid = await _create(kube_client, namespace, [])
    assert await kube_client.delete(JOBS, namespace, NAME, uid="another") is None
    (job,) = (await kube_client.list(JOBS, namespace)).items
    assert job["metadata"]["uid"] == uid
