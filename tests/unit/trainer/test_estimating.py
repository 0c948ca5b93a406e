"""The trainer says what the run needs of its GPU before it loads the model."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from finetune_api.report import JobReference
from finetune_api.trainer_config import TrainerConfig
from finetune_operator.desired.config import build_trainer_config
from finetune_trainer.device import Device
from finetune_trainer.run import estimating
from finetune_trainer.run.estimating import estimate_memory
from finetune_trainer.run.progress import RunProgress
from tests.support.manifests import Manifest
from tests.support.world import build_spec
from tests.unit.api.test_estimate import LLAMA_8B

GPU = Device("cuda", "NVIDIA L4")
TEACHER: Manifest = {"method": {"objective": "distill", "distill": {"teacher": {"uri": "hf://a/teacher"}}}}
JOB = JobReference(namespace="a", name="b", uid="c")


@pytest.fixture
def base(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text(json.dumps(LLAMA_8B))
    return tmp_path


@pytest.fixture(autouse=True)
def has(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Memory of the GPU, which this machine has not."""
    memory = {"bytes": 80 * 2**30}
    monkeypatch.setattr(estimating, "_measure_total", lambda _: memory["bytes"])
    return memory


def _config(spec: Manifest | None = None) -> TrainerConfig:
    return build_trainer_config(build_spec(spec), JOB, 0, simulated_gpus=False, reporting=None)


def test_the_estimate_is_that_of_the_specification(base: Path) -> None:
    from finetune_api.estimate import compute_estimate, read_shape

    assert estimate_memory(_config(), GPU, base, None) == compute_estimate(read_shape(LLAMA_8B), build_spec()).total_bytes
    assert (estimate_memory(_config(TEACHER), GPU, base, base) or 0) > (estimate_memory(_config(), GPU, base, None) or 0)


def test_of_a_divided_model_it_is_that_of_one_gpu_of_all(base: Path) -> None:
    from finetune_api.estimate import compute_estimate, read_shape

    divided: Manifest = {"resources": {"gpus": 4, "nodes": 2}, "training": {"sharding": "full"}}
    expected = compute_estimate(read_shape(LLAMA_8B), build_spec(divided)).total_bytes
    assert estimate_memory(_config(divided), GPU, base, None) == expected
    assert expected < (estimate_memory(_config(), GPU, base, None) or 0)


def test_a_gpu_that_has_less_is_warned_of_with_what_would_fit(base: Path, has: dict[str, int], caplog: pytest.LogCaptureFixture) -> None:
    has["bytes"] = 9 * 2**30
    with caplog.at_level(logging.INFO):
        assert estimate_memory(_config(), GPU, base, None) is not None
    (warning,) = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert warning.startswith("the GPU has 9.0 GiB: the run will probably run out of memory; it would fit with ")


@pytest.mark.parametrize("config", [{"model_type": "mamba"}, None, "no object"], ids=str)
def test_what_is_not_known_stops_nothing(tmp_path: Path, config: Any, caplog: pytest.LogCaptureFixture) -> None:
    if config is not None:
        (tmp_path / "config.json").write_text(json.dumps(config) if isinstance(config, dict) else config)
    with caplog.at_level(logging.INFO):
        assert estimate_memory(_config(), GPU, tmp_path, None) is None
    assert "can't be estimated" in caplog.text


def test_on_the_processor_nothing_is_said(base: Path) -> None:
    assert estimate_memory(_config(), Device("cpu", "cpu"), base, None) is None


def test_it_is_reported() -> None:
    progress = RunProgress(JOB)
    progress.memory_estimate = 31 * 2**30
    report = progress.build_report(1)
    assert report.metrics is not None
    assert report.metrics.gpu_memory_estimate_bytes == 31 * 2**30
