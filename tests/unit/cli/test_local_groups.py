"""What several pods learn in a step in the cluster is what a local run learns in one, with the processes that it has."""

from pathlib import Path

import pytest

from finetune_api.resource import parse_manifest
from finetune_cli.local_run import build_local_config
from tests.support.manifests import build_minimal_manifest, merge


@pytest.mark.parametrize(
    ("gpus", "nodes", "cpu", "processes", "accumulation"),
    [(1, 1, False, 1, 4), (0, 1, False, 1, 4), (4, 1, False, 4, 4), (4, 2, False, 4, 8), (4, 2, True, 1, 32), (0, 3, False, 1, 12)],
)
def test_local_run_learns_as_much_in_a_step(gpus: int, nodes: int, cpu: bool, processes: int, accumulation: int) -> None:
    manifest = merge(build_minimal_manifest(), {"spec": {"resources": {"gpus": gpus, "nodes": nodes}}})
    config = build_local_config(parse_manifest(manifest), Path("work"), cpu=cpu)
    assert (config.group.size if config.group is not None else 1) == processes
    assert config.training.gradient_accumulation_steps == accumulation
    assert config.device.gpus == (0 if cpu else gpus)
