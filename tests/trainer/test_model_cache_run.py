"""A run whose base model is in the shared cache: filled as the pod's init container does it, trained on for real, and left as it was."""

import json
from pathlib import Path

import pytest

from finetune_api.names import ENV_CONFIG
from finetune_trainer.model_cache import run as run_model_cache
from finetune_trainer.storage.cache import ModelCache
from tests.support.hub_server import Hub, Repository, run_hub
from tests.support.trainer_process import Trainers
from tests.support.trainer_workspace import make_config

pytestmark = pytest.mark.torch


def test_a_run_trains_on_a_model_of_the_cache_without_asking_the_hub(trainers: Trainers, workspace: Path, tmp_path: Path) -> None:
    files = {path.name: path.read_bytes() for path in (workspace / "model").iterdir() if path.is_file()}
    cache = ModelCache(tmp_path / "cache")
    with run_hub(Hub({"models/org/base": Repository(files)})) as hub:
        model = {"uri": "hf://org/base", "endpointUrl": hub.url}
        config = make_config(workspace, "cached", model=model, modelCache=str(cache.root), training={"maxSteps": 2})
        Path(config["workDir"]).mkdir(parents=True)
        assert run_model_cache(["--cache", str(cache.root), "fill"], {ENV_CONFIG: json.dumps(config)}) == 0
        hub.repositories.clear()
        hub.faults.seen.clear()
        code, process = trainers.run(config)
        assert code == 0, process.log
        assert hub.faults.seen == []
    ((key, entry),) = cache.measure().entries.items()
    manifest = json.loads((workspace / "out" / "cached" / "adapter" / "manifest.json").read_text())
    assert entry.commit in json.dumps(manifest)
    assert entry.digest is not None
    assert entry.digest in json.dumps(manifest)
    assert cache.verify(key) is not None
