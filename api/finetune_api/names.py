"""The names that operator, trainer, chart and tests must agree on."""

from typing import Final

GROUP: Final = "finetune.dev"
VERSION: Final = "v1alpha1"
API_VERSION: Final = f"{GROUP}/{VERSION}"
KIND: Final = "FineTuneJob"
PLURAL: Final = "finetunejobs"
SINGULAR: Final = "finetunejob"
SHORT_NAME: Final = "ftj"
CATEGORIES: Final = ("all", "finetune")

SWEEP_KIND: Final = "FineTuneSweep"
SWEEP_PLURAL: Final = "finetunesweeps"
SWEEP_SINGULAR: Final = "finetunesweep"
SWEEP_SHORT_NAME: Final = "fts"

LABEL_MANAGED_BY: Final = "app.kubernetes.io/managed-by"
"""Selects the operator's own children on the server; its value is :data:`MANAGED_BY`."""
MANAGED_BY: Final = "finetune-operator"
LABEL_JOB_NAME: Final = f"{GROUP}/job-name"
"""Name of the FineTuneJob, on its Job and pods."""
LABEL_JOB_UID: Final = f"{GROUP}/job-uid"
"""UID of the FineTuneJob, on its Job and pods."""
LABEL_ATTEMPT: Final = f"{GROUP}/attempt"
"""Number of the attempt, from 0, on its Job and pods."""

LABEL_SWEEP_NAME: Final = f"{GROUP}/sweep-name"
"""Name of the FineTuneSweep, on the FineTuneJobs of its trials."""
LABEL_SWEEP_UID: Final = f"{GROUP}/sweep-uid"
"""UID of the FineTuneSweep, on the FineTuneJobs of its trials."""
LABEL_SUSPENDED_BY_SWEEP: Final = f"{GROUP}/suspended-by-sweep"
"""On a FineTuneJob that its sweep has suspended: the sweep may let it go on."""

LABEL_QUEUE_NAME: Final = "kueue.x-k8s.io/queue-name"
"""On the Job: the LocalQueue that it waits in. Kueue adds it where a namespace has a LocalQueue named `default`."""
LABEL_WORKLOAD_PRIORITY: Final = "kueue.x-k8s.io/priority-class"
"""On the Job: the WorkloadPriorityClass by which Kueue orders and preempts it."""
LABEL_POD_GROUP: Final = "scheduling.x-k8s.io/pod-group"
"""On a pod: the PodGroup with which the coscheduling plugin of scheduler-plugins places it."""
ANNOTATION_MIN_MEMBER: Final = "scheduling.volcano.sh/group-min-member"
"""On a Job whose pods Volcano places: how many of them are placed together. Volcano makes the PodGroup itself."""
ANNOTATION_DEACTIVATED: Final = f"{GROUP}/suspended"
"""On a Kueue Workload: it was deactivated because its run was suspended by its user, and is to be activated on resume."""

TRAINER_CONTAINER: Final = "trainer"
"""Name of the trainer's container; the pod failure policy and the summary are read by it."""

ENV_CONFIG: Final = "FINETUNE_CONFIG"
"""Environment variable that holds the whole :class:`~finetune_api.trainer_config.TrainerConfig` as JSON."""
ENV_REPORT_FILE: Final = "FINETUNE_REPORT_FILE"
"""Environment variable of a local run: the file that its newest report is written to, instead of being sent."""
ENV_TRACEPARENT: Final = "TRACEPARENT"
"""Environment variable that holds the span which the trainer's are children of, as W3C Trace Context writes it."""
ENV_TRACING_ENDPOINT: Final = "FINETUNE_TRACING_ENDPOINT"
"""Environment variable that holds the address of the OTLP/HTTP receiver that spans go to, of operator and trainer. Not OpenTelemetry's
own name: libraries in the trainer that trace on their own account would send theirs, and our headers, elsewhere."""
ENV_TRACING_HEADERS: Final = "FINETUNE_TRACING_HEADERS"
"""Environment variable that holds headers for it: ``name=value,name=value``."""
ENV_POD_NAME: Final = "FINETUNE_POD_NAME"
"""Name of the trainer's pod, from the downward API."""
ENV_PREFIX_MODEL: Final = "FINETUNE_MODEL_"
"""Prefix of the environment variables made from ``model.credentialsSecret``."""
ENV_PREFIX_DATASET: Final = "FINETUNE_DATASET_"
"""Prefix of the environment variables made from ``dataset.credentialsSecret``."""
ENV_PREFIX_EVAL: Final = "FINETUNE_EVAL_"
"""Prefix of the environment variables made from ``dataset.eval.credentialsSecret``."""
ENV_PREFIX_ADDITIONAL: Final = "FINETUNE_ADDITIONAL_"
"""With a number and `_`, prefix of the environment variables made from the ``credentialsSecret`` of that entry of
``dataset.additional``."""
ENV_PREFIX_TEACHER: Final = "FINETUNE_TEACHER_"
"""Prefix of the environment variables made from ``method.distill.teacher.credentialsSecret``."""
ENV_PREFIX_OUTPUT: Final = "FINETUNE_OUTPUT_"
"""Prefix of the environment variables made from ``output.credentialsSecret``."""
ENV_PREFIX_PUSH: Final = "FINETUNE_PUSH_"
"""With a number and `_`, prefix of the environment variables made from the ``credentialsSecret`` of that entry of ``output.push``."""
ENV_PREFIX_TASK: Final = "FINETUNE_TASK_"
"""Likewise, of ``evaluation.tasks``."""
ENV_PREFIX_HARNESS: Final = "FINETUNE_HARNESS_"
"""Likewise, of ``evaluation.harness``."""
ENV_PREFIX_TRACKER: Final = "FINETUNE_TRACKER_"
"""Likewise, of ``tracking``."""

RENDEZVOUS_PORT: Final = 29400
"""Port of the first pod of a run of several, where their processes meet."""
ENV_NODE_RANK: Final = "JOB_COMPLETION_INDEX"
"""Number of the pod, from 0, in a run of several: set by Kubernetes in the pods of an Indexed Job."""
ENV_LOCAL_RANK: Final = "FINETUNE_LOCAL_RANK"
"""Number of the process in its pod, from 0: set by the trainer for those that it starts."""
ENV_PACKED_ATTENTION: Final = "PACKED_ATTENTION"
"""Environment variable that says by what packed examples are told apart: `auto` (if it is not set), or `mask` on every device. It has no
reserved prefix, so that `pod.env` and a platform's `defaults.env` can set it."""
INDEX_LABEL: Final = "batch.kubernetes.io/job-completion-index"
"""On a pod of an Indexed Job: its number, from 0."""

WORK_DIR: Final = "/work"
"""Scratch space of the trainer: an emptyDir that lives as long as the pod."""
TOKEN_DIR: Final = "/var/run/secrets/finetune.dev/report"
TOKEN_PATH: Final = f"{TOKEN_DIR}/token"
"""The projected token that a report is authenticated by."""
PVC_MOUNT_ROOT: Final = "/mnt/pvc"
"""A claim named in a ``pvc://claim/path`` URI is mounted at ``PVC_MOUNT_ROOT/claim``."""
MODEL_CACHE_ROOT: Final = "/mnt/model-cache"
"""Where a shared cache of base models is mounted: for its filler to write, for the trainer to read."""
MODEL_CACHE_CONTAINER: Final = "model-cache"
"""Name of the init container that fills it."""
TERMINATION_MESSAGE_PATH: Final = "/dev/termination-log"

REPORT_PATH: Final = "/v1/reports"
"""Path of the report receiver."""
REPORT_MAX_BYTES: Final = 32 * 1024
"""Largest body that the report receiver reads, in bytes."""
SUMMARY_MAX_BYTES: Final = 4096
"""Kubernetes keeps at most this many bytes of a container's termination message."""
HISTORY_MAX_POINTS: Final = 64
"""Most points of the loss curve kept in status."""
CURVES_MAX_POINTS: Final = 32
"""Most points of each other curve there."""
EXCERPT_MAX_CHARACTERS: Final = 280
"""Longest text of a sample there."""


def report_audience(job_uid: str) -> str:
    """Return the audience of the token by which the run of the FineTuneJob ``job_uid`` reports."""
    return f"{GROUP}/report/{job_uid}"


def number_prefix(prefix: str, index: int) -> str:
    """Return the prefix of the environment variables made from the Secret of the list's entry ``index``: `FINETUNE_PUSH_0_`."""
    return f"{prefix}{index}_"
