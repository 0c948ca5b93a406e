"""Figures reach real trackers: an MLflow server, TensorBoard's files, Weights & Biases offline. And none of them can fail a run."""

import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from finetune_api.exit_codes import ExitCode
from finetune_devcluster.ports import find_free_ports
from tests.support.mlflow_server import run_mlflow
from tests.support.tracker_files import read_events, run_interrupted
from tests.support.trainer_process import Trainers
from tests.support.trainer_workspace import make_config
from tests.trainer.conftest import Finished

pytestmark = pytest.mark.torch


@pytest.fixture(scope="module")
def mlflow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with run_mlflow(tmp_path_factory.mktemp("mlflow")) as url:
        yield url


def ask(url: str, path: str, body: dict[str, Any] | None = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"{url}/api/2.0/mlflow/{path}", data, {"Content-Type": "application/json"})  # noqa: S310  our own server
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=20) as answer:
        return json.load(answer)


def find_run(url: str, uid: str) -> Any:
    experiment = ask(url, "experiments/get-by-name?experiment_name=team-a")["experiment"]["experiment_id"]
    query = {"experiment_ids": [experiment], "filter": f"tags.`finetune.dev.job-uid` = '{uid}'"}
    [run] = ask(url, "runs/search", query)["runs"]
    return run


def build_config(workspace: Path, name: str, *tracking: dict[str, Any], **training: Any) -> dict[str, Any]:
    settings = {"maxSteps": 6, "evalSteps": 3, "checkpoint": {"everySteps": 1000}, **training}
    return make_config(workspace, name, tracking=list(tracking), training=settings)


@pytest.fixture(scope="module")
def tracked(trainers: Trainers, workspace: Path, mlflow: str) -> Finished:
    trackers: list[dict[str, Any]] = [{"type": "mlflow", "url": mlflow}, {"type": "tensorboard"}, {"type": "wandb", "offline": True}]
    code, process = trainers.run(build_config(workspace, "tracked", *trackers))
    assert code == 0, process.log
    assert "tracker " not in process.log
    return Finished(code, process, workspace / "out" / "tracked")


def test_mlflow_has_the_run_with_every_figure(tracked: Finished, mlflow: str) -> None:
    run = find_run(mlflow, "uid-tracked")
    assert (run["info"]["status"], run["info"]["run_name"]) == ("FINISHED", "tracked")
    history = ask(mlflow, f"metrics/get-history?run_id={run['info']['run_id']}&metric_key=loss")["metrics"]
    assert [(point["step"], point["value"]) for point in history] == tracked.losses
    assert {"eval_loss", "learning_rate", "grad_norm", "tokens_per_second"} <= {metric["key"] for metric in run["data"]["metrics"]}
    parameters = {parameter["key"]: parameter["value"] for parameter in run["data"]["params"]}
    assert parameters["training.maxSteps"] == "6"
    tags = {tag["key"]: tag["value"] for tag in run["data"]["tags"]}
    [artifact] = tracked.process.summary.artifacts
    assert tags["finetune.dev.0-adapter"] == f"{artifact.uri} {artifact.digest}"


def test_tensorboard_reads_the_files_in_the_output(tracked: Finished, trainers: Trainers, workspace: Path) -> None:
    result = workspace / "events.json"
    read = trainers.call(read_events, tracked.output / "tensorboard" / "uid-tracked", result)
    assert read.wait() == 0, read.log
    events = json.loads(result.read_text())
    assert [step for step, _ in events["loss"]] == [1, 2, 3, 4, 5, 6]
    assert [value for _, value in events["loss"]] == pytest.approx([loss for _, loss in tracked.losses])
    assert [step for step, _ in events["eval_loss"]] == [0, 3, 6]


def test_weights_and_biases_has_a_run_to_sync(tracked: Finished) -> None:
    [run] = (tracked.output / "wandb" / "uid-tracked").glob("offline-run-*/run-uid-tracked.wandb")
    content = run.read_bytes()
    for words in (b"learning_rate", b"eval_loss", b"training.maxSteps"):
        assert words in content


def test_an_interrupted_run_is_one_run_in_mlflow(trainers: Trainers, workspace: Path, mlflow: str) -> None:
    config = build_config(workspace, "tracked-twice", {"type": "mlflow", "url": mlflow})
    stopped = trainers.call(run_interrupted, config, 3)
    assert stopped.wait() == ExitCode.INTERRUPTED, stopped.log
    code, process = trainers.run(config)
    assert code == 0, process.log
    run = find_run(mlflow, "uid-tracked-twice")
    assert run["info"]["status"] == "FINISHED"
    history = ask(mlflow, f"metrics/get-history?run_id={run['info']['run_id']}&metric_key=loss")["metrics"]
    assert {point["step"] for point in history} == set(range(1, 7))


def test_trackers_that_fail_fail_no_run(trainers: Trainers, workspace: Path) -> None:
    """Nobody listens at MLflow's address, and the key for Weights & Biases is none."""
    (port,) = find_free_ports(1)
    secret = {"credentialsSecret": {"name": "tracker"}}
    trackers = [{"type": "mlflow", "url": f"http://127.0.0.1:{port}"}, {"type": "wandb", "url": f"http://127.0.0.1:{port}", **secret}]
    code, process = trainers.run(build_config(workspace, "untracked", *trackers), {"FINETUNE_TRACKER_1_WANDB_API_KEY": "not-a-key"})
    assert code == 0, process.log
    assert "tracker mlflow (training goes on)" in process.log
    assert "tracker wandb" in process.log
    assert process.summary.outcome == "completed"
