"""What a run leaves behind, and the manifest that proves it.

Files are written first, ``manifest.json`` last. Without a manifest there is no artifact; one whose files don't match it isn't one.
"""

from typing import Annotated, Any, Literal

from pydantic import Field

from finetune_api.base import StoredModel, Timestamp
from finetune_api.progress import HarnessScore, TaskScore

MANIFEST_NAME = "manifest.json"
Digest = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]


class ManifestFile(StoredModel):
    """One file of an artifact."""

    path: Annotated[str, Field(min_length=1, max_length=512)]
    """Path below the artifact's folder, with forward slashes."""
    size_bytes: Annotated[int, Field(ge=0)]
    """Size in bytes."""
    digest: Digest
    """SHA-256 of the content."""


class ArtifactManifest(StoredModel):
    """`manifest.json`: the files of an artifact or checkpoint, and what they came from."""

    schema_version: Literal[1] = 1
    """Version of this format."""
    kind: Literal["adapter", "model", "merged", "gguf", "gptq", "checkpoint", "tokens"]
    """What the folder holds."""
    format: Literal["peft", "transformers", "gguf", "compressed-tensors", "trainer-checkpoint", "arrow"]
    """How its files are to be read."""
    files: Annotated[list[ManifestFile], Field(min_length=1)]
    """Every file but the manifest, sorted by path."""
    job_uid: str
    """UID of the FineTuneJob; a run resumes only from checkpoints that carry its own."""
    job_namespace: str
    """Namespace of the FineTuneJob."""
    job_name: str
    """Name of the FineTuneJob."""
    attempt: Annotated[int, Field(ge=0)]
    """Attempt that wrote it."""
    step: Annotated[int, Field(ge=0)]
    """Optimizer steps done."""
    total_steps: Annotated[int, Field(ge=0)]
    """Optimizer steps of the whole run."""
    base_model_uri: str
    """URI of the base model."""
    base_model_revision: str | None = None
    """Commit that the base model's revision resolved to; absent where the source has none."""
    base_model_digest: Digest | None = None
    """SHA-256 over the base model's config and weight files, as far as it is known without another download."""
    dataset_digest: Digest | None = None
    """SHA-256 of the training data as it was read."""
    versions: dict[str, str]
    """Versions of Python and of the libraries that trained it."""
    metrics: dict[str, float] = Field(default_factory=dict)
    """Metrics at `step`, by the names of `status.metrics`."""
    tasks: list[TaskScore] = Field(default_factory=list)
    """Scores of `evaluation.tasks`."""
    harness: list[HarnessScore] = Field(default_factory=list)
    """Scores of `evaluation.harness`."""
    config: dict[str, Any]
    """The run's `TrainerConfig` as JSON, which carries no credentials. Read as plain data, so that any release can verify a manifest."""
    created_time: Timestamp
    """When the manifest was written."""


class Artifact(StoredModel):
    """An artifact as status shows it."""

    name: Annotated[str, Field(min_length=1, max_length=63)]
    """Name within the run: `adapter`, `model` (after full fine-tuning), `merged`, `gguf` or `gptq`."""
    format: Annotated[str, Field(min_length=1, max_length=32)]
    """`peft`: load it with PEFT, vLLM or transformers; `transformers`: the whole model, for these and any other; `gguf`: for llama.cpp and
    Ollama; `compressed-tensors`: the whole model in 4 bits, for vLLM, and for transformers with the library of that name."""
    uri: Annotated[str, Field(min_length=1, max_length=1200)]
    """Folder that it lies in: `output.uri`, and its name below that; or where it was pushed to."""
    digest: Digest
    """SHA-256 of its `manifest.json`, which in turn holds those of all files; in an OCI registry, the digest that it is pulled by."""
    size_bytes: Annotated[int, Field(ge=0)]
    """Size of its files in bytes."""
    base_model: Annotated[str, Field(max_length=1200)]
    """Base model that it belongs to, with `@revision` where there is one."""
    created_time: Timestamp
    """When it was published."""
