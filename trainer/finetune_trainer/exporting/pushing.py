"""Copies of a published artifact in registries and hubs."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from finetune_api.artifact import Artifact, ArtifactManifest
from finetune_api.base import format_time
from finetune_api.spec import PushSpec
from finetune_api.uri import parse_uri
from finetune_trainer.storage.credentials import Credentials
from finetune_trainer.storage.faults import build_error
from finetune_trainer.storage.images import push_image
from finetune_trainer.storage.registry import Registry
from finetune_trainer.storage.retry import RetryPolicy, call_with_retry

T = TypeVar("T")
logger = logging.getLogger(__name__)


def push_artifact(
    push: PushSpec,
    folder: Path,
    artifact: Artifact,
    manifest: ArtifactManifest,
    credentials: Credentials,
    policy: RetryPolicy | None = None,
) -> Artifact:
    """Push the verified artifact that lies in ``folder``, manifest and all, to where ``push`` says, and return what status shows of it.

    May be called again at any time, with the same result: an image has the same digest, a commit without changes is none.

    :raises StorageFailed: the registry or the hub failed after retries, or refused.
    """
    if parse_uri(push.uri).scheme == "hf":
        commit = _push_to_hub(push, folder, manifest, credentials, policy or RetryPolicy())
        return artifact.model_copy(update={"uri": f"{push.uri}@{commit}"})
    registry = Registry(push.uri, "output", credentials, push.endpoint_url, policy)
    digest = push_image(folder, registry, build_annotations(artifact, manifest))
    tag = "" if registry.name.tag else ":latest"
    return artifact.model_copy(update={"uri": f"{push.uri}{tag}", "digest": digest})


def build_annotations(artifact: Artifact, manifest: ArtifactManifest) -> dict[str, str]:
    """Return what an image says of itself: the keys of the OCI's own, and what it came from."""
    return {
        "org.opencontainers.image.title": f"{manifest.job_name} ({artifact.name})",
        "org.opencontainers.image.created": format_time(manifest.created_time),
        "org.opencontainers.image.base.name": artifact.base_model,
        "dev.finetune.artifact": artifact.name,
        "dev.finetune.format": artifact.format,
        "dev.finetune.job": f"{manifest.job_namespace}/{manifest.job_name}",
        "dev.finetune.job-uid": manifest.job_uid,
        "dev.finetune.manifest-digest": artifact.digest,
    }


def _push_to_hub(push: PushSpec, folder: Path, manifest: ArtifactManifest, credentials: Credentials, policy: RetryPolicy) -> str:
    """Commit the files as one commit, which a hub makes visible whole or not at all; files of an older push go with it."""
    from huggingface_hub import HfApi  # noqa: PLC0415  takes a second to import

    api = HfApi(endpoint=(push.endpoint_url or credentials.hub_endpoint or "").rstrip("/") or None, token=credentials.hub_token)
    name = push.uri.removeprefix("hf://")
    words = f"{manifest.kind} of FineTuneJob {manifest.job_namespace}/{manifest.job_name}, {manifest.step} steps"

    def commit() -> str:
        api.create_repo(name, private=True, exist_ok=True)
        return str(api.upload_folder(repo_id=name, folder_path=folder, commit_message=words, delete_patterns="*").oid)

    oid = _try(commit, push.uri, policy)
    logger.info("pushed %s: commit %s", push.uri, oid)
    return oid


def _try(operation: Callable[[], T], uri: str, policy: RetryPolicy) -> T:
    try:
        return call_with_retry(operation, f"pushing {uri}", policy, policy.deadline())
    except Exception as error:
        raise build_error(error, uri, "output", "pushing") from error
