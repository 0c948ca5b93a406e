"""MLflow: one run of an experiment for one FineTuneJob, found again by its UID."""

import os
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final

from finetune_trainer.tracking.tracker import Outcome, Point, RunInfo, Tracker

TAG_UID: Final = "finetune.dev.job-uid"
_STATUS: Final[dict[Outcome, str]] = {"completed": "FINISHED", "interrupted": "SCHEDULED", "failed": "FAILED"}
_PARAMETER_MAX: Final = 500
_PARAMETERS_AT_ONCE: Final = 90
_METRICS_AT_ONCE: Final = 900
_ENVIRONMENT: Final = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "GIT_PYTHON_REFRESH": "quiet",
}


class MlflowTracker(Tracker):
    """Sends figures to an MLflow tracking server.

    :param credentials: `MLFLOW_TRACKING_TOKEN`, or user name and password, by their names.
    """

    kind: ClassVar[str] = "mlflow"

    def __init__(self, url: str, info: RunInfo, credentials: Mapping[str, str]) -> None:
        self._url = url
        self._info = info
        self._credentials = credentials
        self._client: Any = None
        self._run_id = ""

    def start(self) -> int:
        """Find or make experiment and run, and write the settings."""
        os.environ.update({**_ENVIRONMENT, **self._credentials})  # its client reads them from nowhere else
        from mlflow.tracking import MlflowClient  # noqa: PLC0415  seconds to import; runs without it need none of it

        client = MlflowClient(tracking_uri=self._url)
        experiment = client.get_experiment_by_name(self._info.project)
        identifier = experiment.experiment_id if experiment is not None else client.create_experiment(self._info.project)
        newest = 0
        found = client.search_runs([identifier], filter_string=f"tags.`{TAG_UID}` = '{self._info.uid}'", max_results=1)
        if found:
            self._run_id = found[0].info.run_id
            client.update_run(self._run_id, status="RUNNING")
            newest = max((metric.step for metric in client.get_metric_history(self._run_id, "loss")), default=0)
        else:
            tags = {TAG_UID: self._info.uid, "finetune.dev.job": f"{self._info.namespace}/{self._info.name}"}
            self._run_id = client.create_run(identifier, run_name=self._info.name, tags=tags).info.run_id
        self._write_settings(client)
        self._client = client
        return newest

    def _write_settings(self, client: Any) -> None:  # noqa: ANN401
        from mlflow.entities import Param  # noqa: PLC0415

        parameters = [Param(name.replace("[", ".").replace("]", ""), value[:_PARAMETER_MAX]) for name, value in self._info.settings.items()]
        for start in range(0, len(parameters), _PARAMETERS_AT_ONCE):
            client.log_batch(self._run_id, params=parameters[start : start + _PARAMETERS_AT_ONCE])

    def log(self, points: Sequence[Point]) -> None:
        """Send each figure with its step and time."""
        from mlflow.entities import Metric  # noqa: PLC0415

        metrics = [Metric(name, value, int(1000 * point.time), point.step) for point in points for name, value in point.values.items()]
        for start in range(0, len(metrics), _METRICS_AT_ONCE):
            self._client.log_batch(self._run_id, metrics=metrics[start : start + _METRICS_AT_ONCE])

    def finish(self, outcome: Outcome, notes: Mapping[str, str]) -> None:
        """Write what came out, and how the run ended; one that will go on is `SCHEDULED`."""
        from mlflow.entities import RunTag  # noqa: PLC0415

        self._client.log_batch(self._run_id, tags=[RunTag(f"finetune.dev.{name}", value) for name, value in notes.items()])
        if outcome == "interrupted":
            self._client.update_run(self._run_id, status=_STATUS[outcome])
        else:
            self._client.set_terminated(self._run_id, status=_STATUS[outcome])
