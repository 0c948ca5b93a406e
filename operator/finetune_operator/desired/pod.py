"""The trainer's pod: under the restricted Pod Security Standard, with nothing in it that its user may not have."""

from typing import Any, Final

from finetune_api.names import (
    ENV_CONFIG,
    ENV_POD_NAME,
    ENV_PREFIX_ADDITIONAL,
    ENV_PREFIX_DATASET,
    ENV_PREFIX_EVAL,
    ENV_PREFIX_HARNESS,
    ENV_PREFIX_MODEL,
    ENV_PREFIX_OUTPUT,
    ENV_PREFIX_PUSH,
    ENV_PREFIX_TASK,
    ENV_PREFIX_TEACHER,
    ENV_PREFIX_TRACKER,
    ENV_TRACEPARENT,
    ENV_TRACING_ENDPOINT,
    ENV_TRACING_HEADERS,
    PVC_MOUNT_ROOT,
    TERMINATION_MESSAGE_PATH,
    TOKEN_DIR,
    TRAINER_CONTAINER,
    WORK_DIR,
    number_prefix,
    report_audience,
)
from finetune_api.spec import FineTuneJobSpec, SecretReference
from finetune_api.tracing import AttemptTrace
from finetune_api.trainer_config import TrainerConfig
from finetune_api.uri import parse_uri
from finetune_operator.desired.gpus import (
    build_container_claims,
    build_gpu_affinity,
    build_gpu_resources,
    build_gpu_tolerations,
    build_pod_claims,
)
from finetune_operator.settings import TracingSettings

USER_ID: Final = 10001
"""User and group of the trainer, as in the image."""
TOKEN_SECONDS: Final = 3600
"""Life of the report token; the kubelet renews it at 80%."""

Manifest = dict[str, Any]


def build_pod_spec(
    spec: FineTuneJobSpec,
    config: TrainerConfig,
    *,
    image: str,
    image_pull_policy: str,
    grace_seconds: int,
    tracing: TracingSettings | None = None,
) -> Manifest:
    """Return the pod spec of the Job's template."""
    claims = build_claims(spec)
    return {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": grace_seconds,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER_ID,
            "runAsGroup": USER_ID,
            "fsGroup": USER_ID,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [
            {
                "name": TRAINER_CONTAINER,
                "image": image,
                "imagePullPolicy": image_pull_policy,
                "env": [*_build_env(spec, config), *_build_tracing_env(config, tracing)],
                "envFrom": _build_env_from(spec),
                "resources": _build_resources(spec),
                "securityContext": {
                    "allowPrivilegeEscalation": False,
                    "readOnlyRootFilesystem": True,
                    "capabilities": {"drop": ["ALL"]},
                },
                "terminationMessagePath": TERMINATION_MESSAGE_PATH,
                # Without a summary, the end of the log is the next best word.
                "terminationMessagePolicy": "FallbackToLogsOnError",
                "volumeMounts": [
                    {"name": "work", "mountPath": WORK_DIR},
                    {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108  # the pod's own emptyDir
                    {"name": "shm", "mountPath": "/dev/shm"},  # noqa: S108  # likewise
                    {"name": "report-token", "mountPath": TOKEN_DIR, "readOnly": True},
                    *(
                        {"name": f"claim-{index}", "mountPath": f"{PVC_MOUNT_ROOT}/{claim}", "readOnly": read_only}
                        for index, (claim, read_only) in enumerate(claims.items())
                    ),
                ],
            }
        ],
        "volumes": [
            {"name": "work", "emptyDir": {}},
            {"name": "tmp", "emptyDir": {}},
            {"name": "shm", "emptyDir": {"medium": "Memory"}},
            {"name": "report-token", "projected": {"sources": [{"serviceAccountToken": _build_token(config)}]}},
            *(
                {"name": f"claim-{index}", "persistentVolumeClaim": {"claimName": claim, "readOnly": read_only}}
                for index, (claim, read_only) in enumerate(claims.items())
            ),
        ],
        **_build_placement(spec),
    }


def build_claims(spec: FineTuneJobSpec) -> dict[str, bool]:
    """Return the volume claims that the URIs name, in order, and whether each is only read."""
    sources = [spec.model.uri, spec.dataset.uri, *([spec.dataset.eval.uri] if spec.dataset.eval else [])]
    sources += [more.uri for more in spec.dataset.additional]
    sources += [spec.method.distill.teacher.uri] if spec.method.distill else []
    sources += [task.uri for task in spec.evaluation.tasks]
    sources += [uri for task in spec.evaluation.harness for uri in (task.uri, task.dataset_uri) if uri is not None]
    claims: dict[str, bool] = {}
    for uri, read_only in [*((uri, True) for uri in sources), (spec.output.uri, False)]:
        location = parse_uri(uri)
        if location.scheme == "pvc":
            claims[location.authority] = claims.get(location.authority, True) and read_only
    return claims


def _build_token(config: TrainerConfig) -> Manifest:
    return {"path": "token", "audience": report_audience(config.job.uid), "expirationSeconds": TOKEN_SECONDS}


def _build_env(spec: FineTuneJobSpec, config: TrainerConfig) -> list[Manifest]:
    return [
        {"name": "HOME", "value": WORK_DIR},
        *({"name": variable.name, "value": variable.value} for variable in spec.pod.env),
        {"name": ENV_POD_NAME, "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
        # Kubernetes replaces $(NAME) in a value, and makes one dollar of two.
        {"name": ENV_CONFIG, "value": config.model_dump_json(exclude_none=True).replace("$", "$$")},
    ]


def _build_tracing_env(config: TrainerConfig, tracing: TracingSettings | None) -> list[Manifest]:
    """Return what makes the trainer continue the attempt's trace; nothing where that is not kept."""
    if tracing is None:
        return []
    trace = AttemptTrace.of(config.job.uid, config.attempt)
    if not trace.is_sampled(tracing.ratio):
        return []
    env: list[Manifest] = [
        {"name": ENV_TRACING_ENDPOINT, "value": tracing.endpoint.replace("$", "$$")},
        {"name": ENV_TRACEPARENT, "value": trace.traceparent},
    ]
    if tracing.trainer_secret:
        # Of the run's own namespace, since the pod is its user's; optional, so that no run waits for a Secret that only tracing needs.
        source = {"name": tracing.trainer_secret, "key": tracing.trainer_secret_key, "optional": True}
        env.append({"name": ENV_TRACING_HEADERS, "valueFrom": {"secretKeyRef": source}})
    return env


def _build_env_from(spec: FineTuneJobSpec) -> list[Manifest]:
    references: list[tuple[str, SecretReference | None]] = [
        (ENV_PREFIX_MODEL, spec.model.credentials_secret),
        (ENV_PREFIX_DATASET, spec.dataset.credentials_secret),
        (ENV_PREFIX_EVAL, spec.dataset.eval.credentials_secret if spec.dataset.eval else None),
        *((number_prefix(ENV_PREFIX_ADDITIONAL, index), more.credentials_secret) for index, more in enumerate(spec.dataset.additional)),
        (ENV_PREFIX_TEACHER, spec.method.distill.teacher.credentials_secret if spec.method.distill else None),
        (ENV_PREFIX_OUTPUT, spec.output.credentials_secret),
        *((number_prefix(ENV_PREFIX_PUSH, index), push.credentials_secret) for index, push in enumerate(spec.output.push)),
        *((number_prefix(ENV_PREFIX_TASK, index), task.credentials_secret) for index, task in enumerate(spec.evaluation.tasks)),
        *((number_prefix(ENV_PREFIX_HARNESS, index), task.credentials_secret) for index, task in enumerate(spec.evaluation.harness)),
        *((number_prefix(ENV_PREFIX_TRACKER, index), tracker.credentials_secret) for index, tracker in enumerate(spec.tracking)),
    ]
    return [{"prefix": prefix, "secretRef": {"name": secret.name}} for prefix, secret in references if secret]


def _build_resources(spec: FineTuneJobSpec) -> Manifest:
    resources = spec.resources
    requests = {"cpu": resources.cpu, "memory": resources.memory}
    limits = {"memory": resources.memory}
    if resources.ephemeral_storage is not None:
        requests["ephemeral-storage"] = limits["ephemeral-storage"] = resources.ephemeral_storage
    gpus = build_gpu_resources(resources)
    claims = build_container_claims(resources)
    return {"requests": requests | gpus, "limits": limits | gpus, **({"claims": claims} if claims else {})}


def _build_placement(spec: FineTuneJobSpec) -> Manifest:
    placement: Manifest = {}
    tolerations = [toleration.model_dump(exclude_none=True) for toleration in spec.pod.tolerations]
    tolerations += build_gpu_tolerations(spec.resources)
    if tolerations:
        placement["tolerations"] = tolerations
    if spec.pod.node_selector:
        placement["nodeSelector"] = spec.pod.node_selector
    if (affinity := build_gpu_affinity(spec.resources)) is not None:
        placement["affinity"] = affinity
    if claims := build_pod_claims(spec.resources):
        placement["resourceClaims"] = claims
    if spec.scheduling.priority_class_name is not None:
        placement["priorityClassName"] = spec.scheduling.priority_class_name
    if spec.pod.image_pull_secrets:
        placement["imagePullSecrets"] = [{"name": secret.name} for secret in spec.pod.image_pull_secrets]
    return placement
