"""Where a run's figures are sent besides status."""

from typing import Annotated, Literal

from pydantic import Field

from finetune_api.base import ApiModel
from finetune_api.rules import Rule
from finetune_api.spec.source import SecretReference
from finetune_api.uri import TrackerUrl

TrackerType = Literal["mlflow", "tensorboard", "wandb"]
MAX_TRACKERS = 3
_Name = Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._/-]*$")]


class TrackerSpec(ApiModel):
    """A tracker that the run's figures go to. One that can't be reached is named in the log; training goes on."""

    type: TrackerType
    """`mlflow`; `tensorboard` (event files in `tensorboard/<uid>/` below `output.uri`); `wandb` (Weights & Biases)."""
    url: TrackerUrl | None = None
    """The MLflow tracking server, or a Weights & Biases server of your own."""
    project: _Name | None = None
    """MLflow's experiment or Weights & Biases' project; the FineTuneJob's namespace if none is given."""
    entity: _Name | None = None
    """User or team of Weights & Biases that the project belongs to."""
    offline: bool = False
    """Weights & Biases only: write the run to `wandb/<uid>/` below `output.uri`, for `wandb sync`, and send nothing."""
    credentials_secret: SecretReference | None = None
    """Secret with `MLFLOW_TRACKING_TOKEN`, or `MLFLOW_TRACKING_USERNAME` and `MLFLOW_TRACKING_PASSWORD`; or `WANDB_API_KEY`."""

    rules = (
        Rule(
            cel="self.type != 'mlflow' || has(self.url)",
            holds=lambda tracker: tracker.type != "mlflow" or tracker.url is not None,
            message="mlflow needs url, the address of its tracking server",
            field="url",
        ),
        Rule(
            cel="self.type != 'tensorboard' || !(has(self.url) || has(self.project) || has(self.credentialsSecret))",
            holds=lambda tracker: tracker.type != "tensorboard" or not (tracker.url or tracker.project or tracker.credentials_secret),
            message="tensorboard writes files below output.uri; remove url, project and credentialsSecret",
            field="type",
        ),
        Rule(
            cel="self.type == 'wandb' || !(has(self.entity) || self.offline)",
            holds=lambda tracker: tracker.type == "wandb" or not (tracker.entity or tracker.offline),
            message="entity and offline are for wandb; remove them",
            field="type",
        ),
        Rule(
            cel="self.type != 'wandb' || self.offline || has(self.credentialsSecret)",
            holds=lambda tracker: tracker.type != "wandb" or tracker.offline or tracker.credentials_secret is not None,
            message="wandb needs credentialsSecret with WANDB_API_KEY, or offline: true",
            field="credentialsSecret",
        ),
    )
