"""Where results go, and in which forms."""

from typing import Annotated, Literal

from pydantic import Field

from finetune_api.base import ApiModel
from finetune_api.rules import Rule, UniqueBy
from finetune_api.spec.source import SecretReference
from finetune_api.uri import EndpointUrl, OutputUri, PushUri

GgufType = Literal["f32", "f16", "bf16", "q8_0"]
GptqGroupSize = Literal[32, 64, 128]
PushedArtifact = Literal["adapter", "merged", "gguf", "gptq"]
MAX_SHORT_URI_LENGTH = 160
"""Longest `output.uri` in bytes where there may be several artifacts."""
MAX_PUSHES = 3
"""Most entries of `output.push`, so that every artifact fits in a termination message."""


class GgufSpec(ApiModel):
    """The merged model as one GGUF file, as llama.cpp and Ollama load it."""

    type: GgufType = "q8_0"
    """Type of the weight matrices: `q8_0` holds a weight in 8.5 bits; vectors stay in 32 bits."""


class GptqSpec(ApiModel):
    """The merged model with its linear layers rounded to 4 bits by GPTQ, as vLLM and transformers load it."""

    group_size: GptqGroupSize = 128
    """Weights of a row that share a scale: fewer are closer to the merged model, and take more room (4.125 bits a weight at 128, 4.5 at
    32). Must divide the width of every linear layer; a model of other widths is refused before training."""


class PushSpec(ApiModel):
    """A registry or hub that a published artifact is pushed to as well."""

    uri: PushUri
    """`oci://registry/repository:tag` (an image that Kubernetes mounts as an image volume; the tag is `latest` if none is given) or
    `hf://organisation/name` (a repository of the hub, made private where it doesn't exist)."""
    artifact: PushedArtifact = "adapter"
    """What is pushed."""
    credentials_secret: SecretReference | None = None
    """Secret with the credentials for `uri`: `OCI_USERNAME` and `OCI_PASSWORD`, or a Secret of the type
    `kubernetes.io/dockerconfigjson`; `HF_TOKEN` for the hub."""
    endpoint_url: EndpointUrl | None = None
    """Where the registry or the hub is reached instead of at its own name, such as `http://registry.internal:5000`."""


class OutputSpec(ApiModel):
    """Where the adapter, the metrics and the checkpoints are written."""

    uri: OutputUri
    """Folder that results are written under: `s3://bucket/path`, `gs://bucket/path` or `pvc://claim/path`. The adapter goes to
    `adapter/` in it, `merged/`, `gguf/` and `gptq/` beside that, checkpoints to `checkpoints/<uid>/`. Local runs also take
    `file:///path`."""
    credentials_secret: SecretReference | None = None
    """Secret with the credentials for `uri`; keys as in `model.credentialsSecret`."""
    endpoint_url: EndpointUrl | None = None
    """Endpoint of an S3- or GCS-compatible store."""
    merged: bool = False
    """Also publish the whole model in bfloat16, the adapter merged into the base as it was before quantisation. Checked to answer as
    the adapter does. The base model in bfloat16 must fit in `resources.memory`, or in the GPU's memory."""
    gguf: GgufSpec | None = None
    """Also publish the merged model as a GGUF file: for Llama, Mistral and Qwen2 with a byte-level BPE tokenizer; another model is
    refused before training."""
    gptq: GptqSpec | None = None
    """Also publish the merged model in 4 bits, rounded by GPTQ on the run's own training examples and checked on held-out ones. A model
    whose layers are no linear ones (GPT-2) or whose experts are one tensor is refused before training."""
    push: Annotated[list[PushSpec], Field(max_length=MAX_PUSHES), UniqueBy("uri")] = Field(default_factory=list)
    """Registries and hubs that artifacts are pushed to once they are published under `uri`."""

    @property
    def has_several(self) -> bool:
        """Whether more than the adapter is asked for."""
        return bool(self.merged or self.gguf or self.gptq or self.push)

    rules = (
        Rule(
            cel="self.push.all(push, push.artifact != 'merged' || self.merged)",
            holds=lambda output: output.merged or all(push.artifact != "merged" for push in output.push),
            message="push of the merged model needs output.merged: true",
            field="push",
        ),
        Rule(
            cel="self.push.all(push, push.artifact != 'gguf' || has(self.gguf))",
            holds=lambda output: output.gguf is not None or all(push.artifact != "gguf" for push in output.push),
            message="push of the GGUF file needs output.gguf",
            field="push",
        ),
        Rule(
            cel="self.push.all(push, push.artifact != 'gptq' || has(self.gptq))",
            holds=lambda output: output.gptq is not None or all(push.artifact != "gptq" for push in output.push),
            message="push of the 4-bit model needs output.gptq",
            field="push",
        ),
        Rule(
            cel=(
                f"bytes(self.uri).size() <= {MAX_SHORT_URI_LENGTH} || "
                "!(self.merged || has(self.gguf) || has(self.gptq) || self.push.size() > 0)"
            ),
            holds=lambda output: len(output.uri.encode(errors="replace")) <= MAX_SHORT_URI_LENGTH or not output.has_several,
            message=(
                f"must have at most {MAX_SHORT_URI_LENGTH} bytes where merged, gguf, gptq or push are used, so that all artifacts fit in "
                "the run's last word"
            ),
            field="uri",
        ),
    )
