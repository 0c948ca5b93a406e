"""The session's figures as a fixture, for all tests that have rows in the table: the operator's and the trainer's."""

from collections.abc import Iterator

import pytest

from tests.faults.support.figures import Figures

ROWS = pytest.StashKey[list[tuple[int, str, str]]]()


@pytest.fixture(scope="session")
def full(request: pytest.FixtureRequest) -> bool:
    """Whether everything is to be run, or the shortened form."""
    return bool(request.config.getoption("--faults-full", default=False))


@pytest.fixture(scope="session")
def seed(request: pytest.FixtureRequest) -> int:
    """Seed of what is left to chance."""
    return int(request.config.getoption("--faults-seed", default=7))


@pytest.fixture(scope="session")
def figures(request: pytest.FixtureRequest, full: bool, seed: int) -> Iterator[Figures]:
    """The session's figures (of this worker, where there are several)."""
    figures = Figures(full=full, seed=seed)
    yield figures
    if (output := getattr(request.config, "workeroutput", None)) is not None:
        output.setdefault("faults", []).extend(figures.rows)  # one fixture a folder, and both may have been in this worker
    else:
        request.config.stash.setdefault(ROWS, []).extend(figures.rows)
