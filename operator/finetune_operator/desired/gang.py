"""All pods of a run or none, by a scheduler that can: what each of them documents for the pods of a Job."""

from typing import Any, Final

from finetune_api.names import (
    ANNOTATION_MIN_MEMBER,
    API_VERSION,
    KIND,
    LABEL_JOB_NAME,
    LABEL_JOB_UID,
    LABEL_MANAGED_BY,
    LABEL_POD_GROUP,
    MANAGED_BY,
)
from finetune_api.report import JobReference
from finetune_api.spec import FineTuneJobSpec
from finetune_operator.desired.names import build_service_name

POD_GROUP_VERSION: Final = "scheduling.x-k8s.io/v1alpha1"

Manifest = dict[str, Any]


def add_gang(job: Manifest, spec: FineTuneJobSpec, owner: JobReference, scheduler: str) -> Manifest:
    """Return ``job`` as ``scheduler`` places it as a whole.

    Volcano makes a PodGroup for each Job from the Job's annotation, and drops it with the Job. Coscheduling goes by a label that
    names a PodGroup, which :func:`build_pod_group` makes.
    """
    template = job["spec"]["template"]
    template = {**template, "spec": {**template["spec"], "schedulerName": scheduler}}
    metadata = job["metadata"]
    if spec.scheduling.gang == "volcano":
        metadata = {**metadata, "annotations": {ANNOTATION_MIN_MEMBER: str(spec.resources.nodes)}}
    else:
        labels = {**template["metadata"]["labels"], LABEL_POD_GROUP: build_service_name(owner.uid)}
        template["metadata"] = {**template["metadata"], "labels": labels}
    return {**job, "metadata": metadata, "spec": {**job["spec"], "template": template}}


def build_pod_group(spec: FineTuneJobSpec, owner: JobReference) -> Manifest:
    """Return coscheduling's PodGroup of the run ``owner``, for all of its attempts: it counts the pods that have a node at the time."""
    return {
        "apiVersion": POD_GROUP_VERSION,
        "kind": "PodGroup",
        "metadata": {
            "name": build_service_name(owner.uid),
            "namespace": owner.namespace,
            "labels": {LABEL_MANAGED_BY: MANAGED_BY, LABEL_JOB_NAME: owner.name[:63].rstrip("-._"), LABEL_JOB_UID: owner.uid},
            "ownerReferences": [{"apiVersion": API_VERSION, "kind": KIND, "name": owner.name, "uid": owner.uid, "controller": True}],
        },
        "spec": {"minMember": spec.resources.nodes},
    }
