"""`examples/sdk.ipynb` runs from its first cell to its last, against a real API server and operator."""

from pathlib import Path

import nbformat
import pytest
import yaml
from nbclient import NotebookClient

from finetune_devcluster import Cluster
from tests.support.fake_node import Script
from tests.support.live_run import NewRun
from tests.support.world import build_artifact, build_summary

pytestmark = pytest.mark.cluster
NOTEBOOK = Path(__file__).parents[3] / "examples" / "sdk.ipynb"
NAME = "from-a-notebook"


def test_the_notebook_runs(
    control_plane: Cluster, new_run: NewRun, namespace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    new_run(NAME).node.scripts[namespace, NAME] = Script(ends=iter([(0, build_summary())]))
    config = yaml.safe_load(control_plane.kubeconfig.read_text())
    config["contexts"][0]["context"]["namespace"] = namespace
    (tmp_path / "config").write_text(yaml.safe_dump(config))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    notebook = nbformat.read(NOTEBOOK, as_version=4)  # type: ignore[no-untyped-call]
    NotebookClient(notebook, timeout=120, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = "\n".join(output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", []))
    assert "spec.training.epoch: unknown field" in shown
    assert "Succeeded" in shown
    assert f"{build_artifact().uri} {build_artifact().digest}" in shown


def test_the_notebook_is_committed_without_outputs() -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)  # type: ignore[no-untyped-call]
    nbformat.validate(notebook)
    assert [cell for cell in notebook.cells if cell.get("outputs") or cell.get("execution_count")] == []
