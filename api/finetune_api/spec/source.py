"""Where the base model and the data come from."""

from typing import Annotated, Final, Literal

from pydantic import Field

from finetune_api.base import ApiModel
from finetune_api.rules import Obeys, Rule, quote_cel
from finetune_api.uri import DatasetUri, EndpointUrl, ModelUri

DnsName = Annotated[str, Field(min_length=1, max_length=253, pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)*$")]
"""A DNS-1123 subdomain, as most Kubernetes objects are named."""
Revision = Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]*$")]

DatasetFormat = Literal[
    "auto", "messages", "prompt-completion", "instruction", "sharegpt", "text", "preference", "unpaired-preference", "prompt"
]


_REVISION_RULE = Rule(
    cel="!has(self.revision) || self.uri.startsWith('hf://')",
    holds=lambda source: source.revision is None or source.uri.startswith("hf://"),
    message="revision is for hf:// URIs only; remove it",
    field="revision",
)
_SPLIT_RULE = Rule(
    cel="!has(self.split) || self.uri.startsWith('hf://')",
    holds=lambda source: source.split is None or source.uri.startswith("hf://"),
    message="split is for hf:// URIs only; remove it",
    field="split",
)


ColumnName = Annotated[str, Field(min_length=1, max_length=128)]
_COLUMN_ROLES: Final = (
    "messages",
    "conversations",
    "prompt",
    "completion",
    "instruction",
    "input",
    "output",
    "system",
    "text",
    "chosen",
    "rejected",
    "label",
    "answer",
)
ColumnNames = Annotated[
    dict[str, ColumnName],
    Field(max_length=16),
    Obeys(
        Rule(
            cel=f"self.all(key, key in [{', '.join(map(quote_cel, _COLUMN_ROLES))}])",
            holds=lambda columns: set(columns) <= set(_COLUMN_ROLES),
            message=f"keys must be names that a format has: {', '.join(_COLUMN_ROLES)}",
            json_schema={"propertyNames": {"enum": list(_COLUMN_ROLES)}},
        )
    ),
]
"""Names of columns in the data, by the names that the format has for them."""
Weight = Annotated[float, Field(gt=0, le=100)]
MAX_ADDITIONAL_DATASETS = 15


class SecretReference(ApiModel):
    """Names a Secret in the FineTuneJob's own namespace."""

    name: DnsName
    """Name of the Secret. There is no namespace field: a job reaches only what lies beside it."""


class ModelSpec(ApiModel):
    """The base model."""

    rules = (_REVISION_RULE,)

    uri: ModelUri
    """Where the base model lies: `hf://organisation/name`, `s3://bucket/path`, `https://host/path` or `pvc://claim/path`; a
    folder with `config.json`, a tokenizer and safetensors weights. Local runs also take `file:///path`."""
    revision: Revision | None = None
    """Branch, tag or (best) commit of a hub model. What it resolved to is recorded in the artifact's manifest."""
    credentials_secret: SecretReference | None = None
    """Secret with the credentials for `uri`: `HF_TOKEN`; or `AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY` (and, where needed,
    `AWS_SESSION_TOKEN`, `AWS_REGION`, `AWS_ENDPOINT_URL`); or `HTTP_BEARER_TOKEN`."""
    endpoint_url: EndpointUrl | None = None
    """Endpoint of an S3-compatible store or of a hub mirror. Defaults to `AWS_ENDPOINT_URL` or `HF_ENDPOINT` of the Secret, then
    to the service's own."""


class EvalDatasetSpec(ApiModel):
    """Data held out for evaluation, where it is not split off from the training data."""

    rules = (_REVISION_RULE, _SPLIT_RULE)

    uri: DatasetUri
    """Where the evaluation data lies; same schemes and formats as `dataset.uri`."""
    revision: Revision | None = None
    """Branch, tag or commit of a hub dataset."""
    split: Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9_.-]+$")] | None = None
    """Split of a hub dataset; `test` if it is not given."""
    credentials_secret: SecretReference | None = None
    """Secret with the credentials for `uri`; keys as in `model.credentialsSecret`."""
    endpoint_url: EndpointUrl | None = None
    """Endpoint of an S3-compatible store or of a hub mirror."""


class AdditionalDatasetSpec(EvalDatasetSpec):
    """Another dataset, mixed with the first."""

    weight: Weight = 1.0
    """How often its examples are learnt in a pass: 2 takes each twice, 0.5 half of them, chosen by `training.seed`."""
    format: DatasetFormat = "auto"
    """Shape of a row, as in `dataset.format`."""
    columns: ColumnNames = Field(default_factory=dict)
    """Names of its columns, as in `dataset.columns`."""


class DatasetSpec(ApiModel):
    """The data to learn from."""

    uri: DatasetUri
    """Where the data lies: a `.jsonl`, `.json`, `.csv` or `.parquet` file (or any of these gzipped), a folder of such files, or a
    hub dataset, at `hf://organisation/name`, `s3://bucket/path`, `https://host/path` or `pvc://claim/path`."""
    format: DatasetFormat = "auto"
    """Shape of a row. `auto` finds it out from the columns: `messages` (a list of role and content), `prompt-completion`,
    `instruction` (alpaca: instruction, input, output), `sharegpt` (conversations of from and value), `text`; `preference` (prompt, chosen,
    rejected), `unpaired-preference` (prompt, completion, label), `prompt` (prompt and, for some rewards, answer)."""
    revision: Revision | None = None
    """Branch, tag or commit of a hub dataset."""
    split: Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9_.-]+$")] | None = None
    """Split of a hub dataset; `train` if it is not given."""
    credentials_secret: SecretReference | None = None
    """Secret with the credentials for `uri`; keys as in `model.credentialsSecret`."""
    endpoint_url: EndpointUrl | None = None
    """Endpoint of an S3-compatible store or of a hub mirror."""
    eval_fraction: Annotated[float, Field(ge=0, le=0.5)] | None = None
    """Share of the examples held out for evaluation, chosen by `training.seed`; 0 turns evaluation off. 0.05 if neither this nor
    `eval` is given."""
    eval: EvalDatasetSpec | None = None
    """A dataset of its own for evaluation, instead of `evalFraction`."""
    columns: ColumnNames = Field(default_factory=dict)
    """Columns that have other names than the format asks for: `{prompt: question, completion: reply}`. Also of `eval`."""
    weight: Weight = 1.0
    """How often its examples are learnt in a pass, beside those of `additional`: 2 takes each twice, 0.5 half of them, chosen by
    `training.seed`."""
    additional: Annotated[list[AdditionalDatasetSpec], Field(max_length=MAX_ADDITIONAL_DATASETS)] = Field(default_factory=list)
    """More datasets, mixed with this one by weight. `evalFraction` holds examples out of each."""
    too_long: Literal["truncate", "drop", "fail"] = "truncate"
    """What becomes of an example that is longer than `training.maxLength`: it is cut at its end and counted in
    `status.dataset.truncated`, left out and counted in `status.dataset.dropped`, or the run fails and names it."""
    deduplicate: bool = False
    """Leave out examples that are equal to an earlier one, of whichever dataset; counted in `status.dataset.duplicates`."""
    max_malformed_fraction: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    """Share of malformed rows to leave out, named in the log and counted in `status.dataset.malformed`. With more of them (with the
    default 0: with any) the run fails before the GPU is used."""
    keep_tokenised: bool = False
    """Keep the tokenised data with the run's checkpoints, so that a pod that goes on need not tokenise them again. They go when the
    checkpoints go; until then, whoever may read `output.uri` may read the data there. Not used by the objective `grpo`."""

    rules = (
        _REVISION_RULE,
        _SPLIT_RULE,
        Rule(
            cel="!(has(self.eval) && has(self.evalFraction))",
            holds=lambda dataset: dataset.eval is None or dataset.eval_fraction is None,
            message="evalFraction and eval exclude each other; remove one of them",
            field="evalFraction",
            json_schema={"not": {"required": ["eval", "evalFraction"]}},
        ),
    )

    @property
    def resolved_eval_fraction(self) -> float:
        """Share of the examples to hold out, with the default applied."""
        if self.eval_fraction is not None:
            return self.eval_fraction
        return 0.0 if self.eval is not None else DEFAULT_EVAL_FRACTION


DEFAULT_EVAL_FRACTION = 0.05
