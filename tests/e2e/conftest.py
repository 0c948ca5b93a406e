"""One cluster with a node, one operator installed by its chart, one S3 store with a model and data: shared by all tests here."""

import contextlib
import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from finetune_devcluster import Cluster
from finetune_devcluster.image_builder import load_images
from tests.support.probe_pods import require_node
from tests.support.release import RESTRICTED, Release
from tests.support.runs import Runs
from tests.support.timeline import Timeline
from tests.support.tiny_run import build_secret, upload_sources

OPERATOR_NAMESPACE = "finetune-system"
NOTES = pytest.StashKey[list[str]]()
ROOT = Path(__file__).resolve().parents[2]


def pytest_addoption(parser: pytest.Parser) -> None:
    """The drill of preemptions has a long form."""
    parser.addoption("--drill-full", action="store_true", help="twenty preemptions, some of them kills, instead of two")
    parser.addoption("--drill-report", type=Path, help="file that the drill's table is written into")


@pytest.fixture(scope="session")
def sources(tmp_path_factory: pytest.TempPathFactory) -> "Iterator[tuple[Path, subprocess.Popen[str]]]":
    """The folder of model and data, and the process that is writing it: torch takes seconds to load, so this goes on beside the rest."""
    require_node()
    folder = tmp_path_factory.mktemp("sources")
    words = [sys.executable, "-m", "tests.support.tiny_run", str(folder)]
    with subprocess.Popen(words, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        yield folder, process
        process.kill()


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster with a node."""
    require_node()
    root = tmp_path_factory.mktemp("clusters")
    with Cluster.up(f"e2e-{os.getpid()}", mode="node", state_root=root, ephemeral=True) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def images(cluster: Cluster, pytestconfig: pytest.Config) -> dict[str, str]:
    """The images of operator and trainer, in the node. The first time that takes minutes, so its progress is shown."""
    capture = pytestconfig.pluginmanager.getplugin("capturemanager")
    started = time.monotonic()
    with contextlib.nullcontext() if capture is None else capture.global_and_fixture_disabled():
        references = load_images(cluster)
    pytestconfig.stash.setdefault(NOTES, []).append(f"images built and in the node after {time.monotonic() - started:.1f} s")
    return references


@pytest.fixture(scope="session")
def release(cluster: Cluster, images: dict[str, str]) -> Release:
    """The operator, for the whole cluster."""
    create_namespace(cluster, OPERATOR_NAMESPACE)
    values = {"trainer.terminationGracePeriodSeconds": "60", "logging.format": "text"}
    release = Release(cluster, "finetune-operator", OPERATOR_NAMESPACE, images, values)
    release.install()
    return release


@pytest.fixture(scope="session")
def timeline(cluster: Cluster, release: Release) -> Iterator[Timeline]:
    """All that the cluster shows, with times. (The release has brought the CRD.)"""
    del release
    with Timeline(cluster.kubeconfig) as timeline:
        yield timeline


@pytest.fixture(scope="session")
def base_model(cluster: Cluster, sources: "tuple[Path, subprocess.Popen[str]]") -> Path:
    """The local folder of the base model; it and the data are in the store."""
    folder, process = sources
    said, _ = process.communicate(timeout=180)
    assert process.returncode == 0, said
    upload_sources(cluster.object_store, folder)
    return folder / "models" / "tiny"


@pytest.fixture(scope="session")
def runs(sources: object, cluster: Cluster, release: Release, timeline: Timeline, base_model: Path, pytestconfig: pytest.Config) -> Runs:
    """Makes and follows runs. Asked for first by every test, so that what takes long begins first."""
    del sources, base_model
    return Runs(cluster, release, timeline, pytestconfig.stash.setdefault(NOTES, []))


@pytest.fixture
def namespace(cluster: Cluster) -> Iterator[str]:
    """A fresh namespace under the restricted Pod Security Standard, with the store's Secret in it."""
    yield from provide_namespace(cluster)


@pytest.fixture(scope="module")
def shared_namespace(cluster: Cluster) -> Iterator[str]:
    """As `namespace`, for all tests of a module."""
    yield from provide_namespace(cluster)


def provide_namespace(cluster: Cluster) -> Iterator[str]:
    name = f"e2e-{uuid.uuid4().hex[:8]}"
    create_namespace(cluster, name)
    cluster.kubectl("--namespace", name, "apply", "--filename=-", stdin=json.dumps(build_secret(cluster.object_store)))
    yield name
    cluster.kubectl("delete", "namespace", name, "--wait=false")


def create_namespace(cluster: Cluster, name: str) -> None:
    manifest = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": RESTRICTED}}
    cluster.kubectl("apply", "--filename=-", stdin=json.dumps(manifest))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give each test twenty minutes; what fixtures do (build images, say) has deadlines of its own."""
    for item in items:
        if Path(__file__).parent in item.path.parents and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(1200, func_only=True))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say what was measured."""
    if notes := config.stash.get(NOTES, []):
        terminalreporter.section("measured on the node")
        for note in notes:
            terminalreporter.line(note)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: "pytest.CallInfo[None]") -> "Generator[None, pytest.TestReport, pytest.TestReport]":
    """Put what the cluster says of a failed test's namespace, and the operator's log, into the report."""
    del call
    report = yield
    values: dict[str, Any] = getattr(item, "funcargs", {})
    runs = values.get("runs")
    if report.failed and isinstance(runs, Runs):
        namespaces = [value for name, value in values.items() if "namespace" in name and isinstance(value, str)]
        report.sections.append(("the cluster", runs.describe(namespaces)))
    return report
