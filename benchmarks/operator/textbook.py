"""The operator that a textbook on kopf would have: create and update handlers, default storages. It makes the same Jobs as ours.

For comparison only: it writes annotations and a finalizer-free but drifting resource, and misses what happens while it is down.
"""

from typing import Any

import kopf

from finetune_api.report import JobReference
from finetune_api.resource import parse_spec
from finetune_operator.desired.job import build_job
from finetune_operator.kube.client import JOBS, ApiError, KubeClient
from finetune_operator.settings import TrainerSettings

TRAINER = TrainerSettings(image="trainer:benchmark")


@kopf.on.startup()
async def connect(memo: kopf.Memo, settings: kopf.OperatorSettings, **_: Any) -> None:
    settings.posting.enabled = False
    memo.client = await KubeClient.connect("textbook")


@kopf.on.login()
def login(**context: Any) -> kopf.ConnectionInfo | None:
    return kopf.login_with_kubeconfig(**context)


@kopf.on.create("finetunejobs.finetune.dev")
async def create(body: kopf.Body, spec: kopf.Spec, patch: kopf.Patch, memo: kopf.Memo, **_: Any) -> None:
    owner = JobReference(namespace=str(body.metadata.namespace), name=str(body.metadata.name), uid=str(body.metadata.uid))
    manifest = build_job(parse_spec(dict(spec)), owner, 0, trainer=TRAINER, reporting=None)
    try:
        await memo.client.create(JOBS, owner.namespace, manifest)
    except ApiError as error:
        if not error.conflict:
            raise kopf.TemporaryError(str(error), delay=5) from error
    patch.status["jobName"] = manifest["metadata"]["name"]
    patch.status["phase"] = "Pending"


@kopf.on.update("finetunejobs.finetune.dev", field="spec.suspend")
async def suspend(body: kopf.Body, new: bool, memo: kopf.Memo, **_: Any) -> None:  # noqa: FBT001  # kopf gives it by name
    name, namespace = body.status["jobName"], str(body.metadata.namespace)
    await memo.client.merge_patch(JOBS, namespace, name, {"spec": {"suspend": bool(new)}})


@kopf.on.event("batch", "v1", "jobs", labels={"finetune.dev/job-uid": kopf.PRESENT})
async def follow(body: kopf.Body, memo: kopf.Memo, **_: Any) -> None:
    ended = next((each["type"] for each in body.status.get("conditions", ()) if each["status"] == "True"), None)
    if ended in ("Complete", "Failed"):
        owner = body.metadata["ownerReferences"][0]["name"]
        phase = {"status": {"phase": "Succeeded" if ended == "Complete" else "Failed"}}
        path = f"/apis/finetune.dev/v1alpha1/namespaces/{body.metadata.namespace}/finetunejobs/{owner}/status"
        await memo.client._call("PATCH", path, phase, content_type="application/merge-patch+json")
