"""The test bench, one for the session, and the figures that it yields."""

import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from finetune_devcluster import Cluster
from tests.faults.support.bench import Bench
from tests.faults.support.direct import DirectApi
from tests.faults.support.figures import Figures, read_rows
from tests.faults.support.figures_of_session import ROWS, figures, full, seed
from tests.faults.support.node import PlayedNode
from tests.faults.support.witness import Witness
from tests.support.crds import install_crds
from tests.support.operator_process import install_rights, write_kubeconfig

__all__ = ["figures", "full", "seed"]


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("faults")
    group.addoption("--faults-full", action="store_true", help="every crash point of every scenario, and full times")
    group.addoption("--faults-report", type=Path, help="write the table of figures to this file")
    group.addoption("--faults-add", action="store_true", help="keep the file's rows that this session does not measure")
    group.addoption("--faults-seed", type=int, default=7, help="seed of what is left to chance")


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    rows = getattr(node, "workeroutput", {}).get("faults", ())
    node.config.stash.setdefault(ROWS, []).extend((number, fault, figure) for number, fault, figure in rows)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Write the table, if one was asked for and nothing has failed: a table without the failures would deceive."""
    config = session.config
    path = config.getoption("--faults-report", default=None)
    rows = config.stash.get(ROWS, [])
    if path is None or hasattr(config, "workerinput") or session.testsfailed or not rows:
        return
    if config.getoption("--faults-add"):
        measured = {(number, fault) for number, fault, _ in rows}
        rows = [*rows, *(row for row in read_rows(path) if row[:2] not in measured)]
    full, seed, added = (config.getoption(f"--faults-{name}") for name in ("full", "seed", "add"))
    figures = Figures(full=full, seed=seed, added=added, rows=rows)
    path.write_text(figures.render())


@pytest.fixture(scope="session")
def fault_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A control plane of its own: these tests stop parts of it."""
    root = tmp_path_factory.mktemp("faults-cluster")
    with Cluster.up(f"faults-{os.getpid()}", state_root=root, ephemeral=True) as cluster:
        install_crds(cluster)
        install_rights(cluster)
        yield cluster


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def bench(fault_cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Bench]:
    """The bench."""
    async with (
        DirectApi(Path(fault_cluster.kubeconfig)) as api,
        Witness(api) as witness,
        PlayedNode(api, witness) as node,
    ):
        folder = tmp_path_factory.mktemp("lanes")
        yield Bench(fault_cluster, write_kubeconfig(fault_cluster, folder / "operator.kubeconfig"), api, witness, node, folder)
