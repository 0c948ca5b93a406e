"""What a platform gives to runs that do not say it themselves, and the specification that follows from it: pure functions."""

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Final, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from finetune_api.base import ApiModel
from finetune_api.rules import UniqueBy
from finetune_api.spec import FineTuneJobSpec
from finetune_api.spec.placement import EnvVar, LabelKey, LabelValue, QueueName, Toleration
from finetune_api.spec.source import DnsName, SecretReference
from finetune_api.spec.tracking import MAX_TRACKERS, TrackerSpec
from finetune_api.uri import EndpointUrl

Model = TypeVar("Model", bound=BaseModel)

MAX_CREDENTIALS: Final = 32


class CredentialDefault(ApiModel):
    """What is used to reach URIs that begin alike."""

    prefix: Annotated[str, Field(min_length=3, max_length=512, pattern=r"^[a-z0-9]+://\S*$")]
    """How the URI begins, up to a path's boundary: `s3://team-a`, `hf://`. The longest that fits is taken."""
    credentials_secret: SecretReference | None = None
    """Secret in the run's own namespace."""
    endpoint_url: EndpointUrl | None = None
    """Endpoint of the store or hub."""


class PlatformDefaults(ApiModel):
    """What runs get that do not say it themselves."""

    trainer_image: Annotated[str, Field(min_length=1, max_length=1024, pattern=r"^\S+$")] | None = None
    """Image of the trainer, in place of the chart's."""
    node_selector: Annotated[dict[LabelKey, LabelValue], Field(max_length=32)] = Field(default_factory=dict)
    """Node labels that pods need. A run's own value of a label goes before."""
    tolerations: Annotated[list[Toleration], Field(max_length=32)] = Field(default_factory=list)
    """Taints that pods bear, beside those of the run."""
    env: Annotated[list[EnvVar], Field(max_length=64), UniqueBy("name")] = Field(default_factory=list)
    """Environment variables. A run's own of the same name goes before."""
    image_pull_secrets: Annotated[list[SecretReference], Field(max_length=8), UniqueBy("name")] = Field(default_factory=list)
    """Secrets, in the run's own namespace, by which the trainer's image is pulled, beside those of the run."""
    queue_name: QueueName | None = None
    """LocalQueue."""
    priority_class_name: DnsName | None = None
    """PriorityClass of the pod."""
    workload_priority_class_name: QueueName | None = None
    """Kueue's WorkloadPriorityClass."""
    credentials: Annotated[list[CredentialDefault], Field(max_length=MAX_CREDENTIALS), UniqueBy("prefix")] = Field(default_factory=list)
    """Credentials and endpoints by URI, for sources and outputs that name neither themselves."""
    model_cache: DnsName | None = None
    """Volume claim, in the run's own namespace, with a shared cache of the hub's base models."""
    tracking: Annotated[list[TrackerSpec], Field(max_length=MAX_TRACKERS), UniqueBy("type")] = Field(default_factory=list)
    """Trackers of runs that name none."""


class RecordedDefaults(PlatformDefaults):
    """What a run was given, as its status keeps it; another release may have written it."""

    model_config = ConfigDict(extra="ignore")


class DefaultsByNamespace(ApiModel):
    """Defaults of the whole cluster and of namespaces."""

    cluster: PlatformDefaults = Field(default_factory=PlatformDefaults)
    """Of every namespace."""
    namespaces: dict[str, PlatformDefaults] = Field(default_factory=dict)
    """Of namespaces, by name. They go before those of every namespace, field by field."""

    def of(self, namespace: str) -> RecordedDefaults | None:
        """Return what runs in ``namespace`` are given; None where that is nothing.

        :raises ValidationError: both together are more than a run may have.
        """
        merged = merge_defaults(self.cluster, self.namespaces.get(namespace))
        return merged if merged != RecordedDefaults() else None


def merge_defaults(general: PlatformDefaults, particular: PlatformDefaults | None) -> RecordedDefaults:
    """Return both in one. ``particular`` goes before ``general``: scalars and trackers whole, the rest entry by entry."""
    own = particular if particular is not None else PlatformDefaults()
    merged = {name: getattr(own, name) or getattr(general, name) for name in PlatformDefaults.model_fields}
    return RecordedDefaults.model_validate(
        {
            **merged,
            "node_selector": {**general.node_selector, **own.node_selector},
            "tolerations": _union(own.tolerations, general.tolerations),
            "env": _by_key("name", own.env, general.env),
            "image_pull_secrets": _by_key("name", own.image_pull_secrets, general.image_pull_secrets),
            "credentials": _by_key("prefix", own.credentials, general.credentials),
        }
    )


def apply_defaults(spec: FineTuneJobSpec, defaults: PlatformDefaults | None) -> FineTuneJobSpec:
    """Return the specification that is carried out: what the run says itself stays as it is."""
    if defaults is None:
        return spec
    scheduling, pod = spec.scheduling, spec.pod
    completed = _with_credentials(spec, defaults.credentials)
    return completed.model_copy(
        update={
            "scheduling": scheduling.model_copy(
                update={
                    name: getattr(scheduling, name) or getattr(defaults, name)
                    for name in ("queue_name", "priority_class_name", "workload_priority_class_name")
                }
            ),
            "pod": pod.model_copy(
                update={
                    "node_selector": {**defaults.node_selector, **pod.node_selector},
                    "tolerations": _union(pod.tolerations, defaults.tolerations),
                    "env": _by_key("name", pod.env, defaults.env),
                    "image_pull_secrets": _by_key("name", pod.image_pull_secrets, defaults.image_pull_secrets),
                }
            ),
            "tracking": spec.tracking or defaults.tracking,
        }
    )


def _with_credentials(model: Model, credentials: Iterable[CredentialDefault]) -> Model:
    """Return ``model`` with the credentials of each source and output in it, however deep.

    Secret and endpoint go together: one that the platform means for its own store is not sent to an endpoint that the run names.
    """
    changes: dict[str, Any] = {}
    for name in type(model).model_fields:
        value = getattr(model, name)
        if isinstance(value, BaseModel):
            changes[name] = _with_credentials(value, credentials)
        elif isinstance(value, list) and any(isinstance(each, BaseModel) for each in value):
            changes[name] = [_with_credentials(each, credentials) if isinstance(each, BaseModel) else each for each in value]
    uri = getattr(model, "uri", None)
    reachable = "credentials_secret" in type(model).model_fields and "endpoint_url" in type(model).model_fields
    if isinstance(uri, str) and reachable and not _names_its_own(model):
        fitting = [each for each in credentials if _begins(uri, each.prefix)]
        if fitting:
            chosen = max(fitting, key=lambda each: len(each.prefix))
            changes |= {"credentials_secret": chosen.credentials_secret, "endpoint_url": chosen.endpoint_url}
    changed = {name: value for name, value in changes.items() if value != getattr(model, name)}
    return model.model_copy(update=changed) if changed else model


def _names_its_own(model: BaseModel) -> bool:
    given: Mapping[str, Any] = {name: getattr(model, name) for name in ("credentials_secret", "endpoint_url")}
    return any(value is not None for value in given.values())


def _begins(uri: str, prefix: str) -> bool:
    return uri == prefix or uri.startswith(prefix if prefix.endswith("/") else f"{prefix}/")


def _union(first: list[Any], second: list[Any]) -> list[Any]:
    return [*first, *(each for each in second if each not in first)]


def _by_key(key: str, first: list[Any], second: list[Any]) -> list[Any]:
    names = {getattr(each, key) for each in first}
    return [*first, *(each for each in second if getattr(each, key) not in names)]
