"""How a run is judged: sample answers and tasks, before training and after it."""

from typing import Annotated, Literal

from pydantic import Field

from finetune_api.base import ApiModel
from finetune_api.progress import MAX_SAMPLES_IN_STATUS
from finetune_api.rules import Rule, UniqueBy
from finetune_api.spec.source import EvalDatasetSpec, SecretReference
from finetune_api.uri import DatasetUri, EndpointUrl

TaskMatch = Literal["exact", "contains", "regex", "numeric"]
MAX_TASKS = 8
MAX_HARNESS_TASKS = 8


class GenerationSpec(ApiModel):
    """How answers are generated, in transformers' words. The default is greedy: the likeliest token, always the same answer."""

    max_new_tokens: Annotated[int, Field(ge=1, le=4096)] = 64
    """Longest answer in tokens."""
    temperature: Annotated[float, Field(ge=0, le=10)] = 0.0
    """0 takes the likeliest token; above it tokens are drawn at random (by `training.seed`), the more freely the higher it is."""
    top_k: Annotated[int, Field(ge=1, le=100_000)] | None = None
    """Draw from this many of the likeliest tokens only."""
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    """Draw from the likeliest tokens that together have this probability."""
    num_beams: Annotated[int, Field(ge=1, le=16)] = 1
    """Beams of a beam search; 1 turns it off."""
    repetition_penalty: Annotated[float, Field(ge=0.1, le=10)] = 1.0
    """Above 1, tokens that were there already are made less likely (CTRL: arXiv 1909.05858)."""

    rules = (
        Rule(
            cel="!has(self.topK) || self.temperature > 0.0",
            holds=lambda generation: generation.top_k is None or generation.temperature > 0,
            message="topK is for drawing at random; set temperature above 0, or remove it",
            field="topK",
        ),
        Rule(
            cel="!has(self.topP) || self.temperature > 0.0",
            holds=lambda generation: generation.top_p is None or generation.temperature > 0,
            message="topP is for drawing at random; set temperature above 0, or remove it",
            field="topP",
        ),
        Rule(
            cel="self.numBeams == 1 || self.temperature == 0.0",
            holds=lambda generation: generation.num_beams == 1 or generation.temperature == 0,
            message="numBeams above 1 searches for the likeliest answer and draws none at random; set temperature to 0",
            field="numBeams",
        ),
    )


class SamplesSpec(ApiModel):
    """Answers shown side by side in the report: the base model's, and the tuned model's."""

    count: Annotated[int, Field(ge=0, le=16)] = 4
    """Prompts taken from the held-out data where `prompts` is empty; 0 turns samples off."""
    prompts: Annotated[list[Annotated[str, Field(min_length=1, max_length=4096)]], Field(max_length=16)] = Field(default_factory=list)
    """Prompts of your own; a model with a chat template gets each as a user's message."""
    in_status: Annotated[int, Field(ge=0, le=MAX_SAMPLES_IN_STATUS)] = 0
    """So many of them are shown in `status.metrics.samples` too, cut to 280 characters each, and by that on the operator's page. Whoever
    may read the FineTuneJob then reads them: they are data, so by default there are none."""


class TaskSpec(EvalDatasetSpec):
    """A file of prompts and expected answers: rows of `prompt` (or `messages`) and `answer`."""

    name: Annotated[str, Field(min_length=1, max_length=32, pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")]
    """Name of the task in `status.metrics.tasks`."""
    match: TaskMatch = "exact"
    """When an answer counts: `exact` (equal but for white space at its ends), `contains` (the expected text is in it), `regex` (the
    expected RE2 expression matches somewhere in it), `numeric` (its last number is the expected one)."""
    ignore_case: bool = False
    """Compare without regard to upper and lower case."""
    max_examples: Annotated[int, Field(ge=1, le=10_000)] = 200
    """Rows that are asked, from the file's first; each is answered twice, before training and after it."""


class HarnessTaskSpec(ApiModel):
    """A task of lm-evaluation-harness: one that it brings, by name; or one of your own, described by a YAML file."""

    name: Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    """Name of the task in the harness, such as `arc_easy`; a group such as `mmlu` is refused, name its tasks. With `uri` any name."""
    uri: DatasetUri | None = None
    """YAML file of a task of your own, in the harness's format. What would run code is refused: `!function`, `class`, `include`, metrics
    that the harness would download. Templates are evaluated in a sandbox."""
    dataset_uri: DatasetUri | None = None
    """Data of a task of your own; files as for `dataset.uri`. Without it the YAML's `dataset_path` names a hub dataset."""
    credentials_secret: SecretReference | None = None
    """Secret with the credentials for `uri` and `datasetUri`; keys as in `model.credentialsSecret`. Its `HF_TOKEN` is used for the hub
    dataset of a task."""
    endpoint_url: EndpointUrl | None = None
    """Endpoint of an S3- or GCS-compatible store for `uri` and `datasetUri`."""
    num_fewshot: Annotated[int, Field(ge=0, le=32)] | None = None
    """Worked examples before each question; the task's own number if it is not given."""
    max_examples: Annotated[int, Field(ge=1, le=10_000)] = 200
    """Questions that are asked, from the first; each twice, before training and after it."""

    rules = (
        Rule(
            cel="!has(self.uri) || self.uri.matches('^(s3|gs|https|pvc|file)://')",
            holds=lambda task: task.uri is None or not task.uri.startswith(("hf://", "oci://")),
            message="must be one file at s3://, gs://, https:// or pvc://",
            field="uri",
        ),
        Rule(
            cel="!has(self.datasetUri) || has(self.uri)",
            holds=lambda task: task.dataset_uri is None or task.uri is not None,
            message="is for a task of your own; give its uri, or remove datasetUri",
            field="datasetUri",
        ),
    )


class EvaluationSpec(ApiModel):
    """How the run is judged, beside the held-out loss."""

    samples: SamplesSpec = Field(default_factory=SamplesSpec)
    """Answers to look at."""
    tasks: Annotated[list[TaskSpec], Field(max_length=MAX_TASKS), UniqueBy("name")] = Field(default_factory=list)
    """Answers that are scored."""
    harness: Annotated[list[HarnessTaskSpec], Field(max_length=MAX_HARNESS_TASKS), UniqueBy("name")] = Field(default_factory=list)
    """Tasks of lm-evaluation-harness, scored before training and after it. Needs a trainer's image that has it (the extra `harness`)."""
    generation: GenerationSpec = Field(default_factory=GenerationSpec)
    """How the answers of samples and tasks are generated."""
