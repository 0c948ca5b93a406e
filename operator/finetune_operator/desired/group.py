"""What a run of several processes needs beside its Job: a name by which its first pod is found, and what each process is told."""

from typing import Any

from finetune_api.names import API_VERSION, KIND, LABEL_JOB_NAME, LABEL_JOB_UID, LABEL_MANAGED_BY, MANAGED_BY, RENDEZVOUS_PORT
from finetune_api.report import JobReference
from finetune_api.spec import FineTuneJobSpec
from finetune_api.trainer_config import GroupConfig
from finetune_operator.desired.names import build_job_name, build_service_name

Manifest = dict[str, Any]


def build_group(spec: FineTuneJobSpec, owner: JobReference, attempt: int) -> GroupConfig | None:
    """Return how the processes of ``attempt`` meet, or None where there is one alone."""
    resources = spec.resources
    if resources.nodes == 1:
        return GroupConfig(nodes=1, processes=resources.gpus, address="127.0.0.1") if resources.gpus > 1 else None
    first = f"{build_job_name(owner.name, owner.uid, attempt, nodes=resources.nodes)}-0"
    address = f"{first}.{build_service_name(owner.uid)}.{owner.namespace}.svc"
    return GroupConfig(nodes=resources.nodes, processes=max(1, resources.gpus), address=address)


def build_service(owner: JobReference) -> Manifest:
    """Return the headless Service that gives the pods of the run ``owner`` their names, in all of its attempts."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": build_service_name(owner.uid),
            "namespace": owner.namespace,
            "labels": {LABEL_MANAGED_BY: MANAGED_BY, LABEL_JOB_NAME: owner.name[:63].rstrip("-._"), LABEL_JOB_UID: owner.uid},
            "ownerReferences": [{"apiVersion": API_VERSION, "kind": KIND, "name": owner.name, "uid": owner.uid, "controller": True}],
        },
        "spec": {
            "clusterIP": "None",
            "selector": {LABEL_JOB_UID: owner.uid},
            # They meet before any of them could be called ready.
            "publishNotReadyAddresses": True,
            "ports": [{"name": "rendezvous", "port": RENDEZVOUS_PORT, "protocol": "TCP"}],
        },
    }
