"""A store that fails at the worst moment, credentials taken back in mid-run, a full disk: nothing is lost, and the end says why."""

import os
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from finetune_api.exit_codes import ExitCode
from finetune_devcluster.state import ObjectStore
from tests.faults.support.figures import Figures
from tests.support.object_store import Faults, run_faulty_proxy, run_object_store
from tests.support.trainer_process import Trainers
from tests.support.trainer_workspace import make_config
from tests.trainer.conftest import Finished

pytestmark = pytest.mark.torch


@pytest.fixture(scope="module")
def object_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    with run_object_store(tmp_path_factory.mktemp("s3")) as store:
        yield store


class Output:
    """A place in the store, by way of a proxy that fails as told."""

    def __init__(self, store: ObjectStore, proxy: str, faults: Faults) -> None:
        self.uri, self.proxy, self.faults = f"s3://{store.bucket}/{uuid.uuid4().hex[:10]}", proxy, faults
        self.environ = {"FINETUNE_OUTPUT_AWS_ACCESS_KEY_ID": store.access_key, "FINETUNE_OUTPUT_AWS_SECRET_ACCESS_KEY": store.secret_key}

    def build_config(self, workspace: Path, name: str) -> dict[str, Any]:
        output = {"uri": self.uri, "endpointUrl": self.proxy}
        return make_config(workspace, name, output=output, workDir=str(workspace / "work" / uuid.uuid4().hex))

    def stored(self, words: str) -> list[str]:
        """Return the requests that wrote an object with ``words`` in its name."""
        return [request for request in self.faults.seen if request.startswith("PUT") and words in request]


@pytest.fixture
def output(object_store: ObjectStore) -> Iterator[Output]:
    faults = Faults()
    with run_faulty_proxy(object_store.endpoint, faults) as proxy:
        yield Output(object_store, proxy, faults)


def test_a_store_that_fails_in_the_last_upload_gets_the_rest_from_the_next_pod(
    output: Output, uninterrupted: Finished, trainers: Trainers, workspace: Path, figures: Figures
) -> None:
    """Everything is there but the manifest: no success, no artifact; and no step is trained again."""
    output.faults.rule = lambda method, path: 403 if method == "PUT" and "/adapter/manifest.json" in path else None
    code, process = trainers.run(output.build_config(workspace, "last-upload"), output.environ)
    assert code == ExitCode.STORAGE_FAILED, process.log
    assert process.summary.outcome == "failed"
    assert not process.summary.artifacts
    assert output.stored("/adapter/adapter_model.safetensors")
    tries = len(output.stored("/adapter/manifest.json"))

    output.faults.rule = lambda _method, _path: None
    code, process = trainers.run(output.build_config(workspace, "last-upload"), output.environ)
    assert code == 0, process.log
    assert "going on from the checkpoint of step 14 of 14" in process.log
    assert process.summary.metrics.eval_loss == uninterrupted.process.summary.metrics.eval_loss
    assert process.summary.artifacts
    figures.add(
        23,
        "trainer: the store refuses the manifest of the last upload",
        f"{tries} × 403: StorageFailed, no artifact; the next pod goes on from step 14 of 14 and publishes; its held-out loss is that "
        f"of a run without faults, {process.summary.metrics.eval_loss:.4f}",
    )


def test_credentials_that_are_taken_back_in_mid_run_cost_no_step(
    output: Output, uninterrupted: Finished, trainers: Trainers, workspace: Path, figures: Figures
) -> None:
    """A Secret was rotated: the store refuses the old key from now on, and the next pod has the new one."""

    def refuse_after_the_first_checkpoint(_method: str, path: str) -> int | None:
        first = "/step-00000004/manifest.json"
        return 403 if output.stored(first) and first not in path else None

    output.faults.rule = refuse_after_the_first_checkpoint
    code, process = trainers.run(output.build_config(workspace, "rotated"), output.environ)
    assert code == ExitCode.STORAGE_FAILED, process.log
    assert "output.credentialsSecret" in process.summary.message

    output.faults.rule = lambda _method, _path: None
    code, process = trainers.run(output.build_config(workspace, "rotated"), output.environ)
    assert code == 0, process.log
    assert "going on from the checkpoint of step 4 of 14" in process.log
    assert process.summary.metrics.eval_loss == uninterrupted.process.summary.metrics.eval_loss
    figures.add(
        28,
        "trainer: the store's Secret is rotated in mid-run",
        "StorageFailed, output.credentialsSecret named; the pod with the new key goes on from step 4 of 14; its held-out loss is that "
        f"of a run without faults, {process.summary.metrics.eval_loss:.4f}",
    )


@contextmanager
def mount_small_disk(folder: Path, kilobytes: int) -> Iterator[Path]:
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system takes root")
def test_a_full_disk_is_named_with_what_to_raise(trainers: Trainers, workspace: Path, tmp_path: Path, figures: Figures) -> None:
    kilobytes = 64
    with mount_small_disk(tmp_path / "disk", kilobytes) as disk:
        code, process = trainers.run(make_config(workspace, "full-disk", workDir=str(disk)))
        assert code == ExitCode.STORAGE_FAILED, process.log
        assert "ephemeralStorage" in process.summary.message
    assert not (workspace / "out" / "full-disk" / "adapter").exists()
    figures.add(27, f"trainer: its disk is full after {kilobytes} KiB", "StorageFailed, resources.ephemeralStorage named; no artifact")
