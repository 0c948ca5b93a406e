"""A picture of the dashboard over two minutes of a live operator's work, for the docs: `make monitoring` and `make pictures`.

The operator, the API server and Prometheus are real; the runs' trainers are played, and what they report is made up.
"""

import os
import random
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import sync_playwright

from finetune_api.exit_codes import ExitCode
from finetune_devcluster import Cluster
from tests.integration.operator.conftest import wait_for_account
from tests.integration.operator.test_metrics import ALERTS, _fill, needs_prometheus
from tests.integration.operator.test_reports_over_https import Sender
from tests.support.dashboard_page import render_dashboard
from tests.support.fake_node import FakeNode
from tests.support.live_run import LiveRun, wait_until
from tests.support.operator_process import OperatorProcess
from tests.support.prometheus_process import PrometheusProcess
from tests.support.world import build_summary
from tests.unit.chart.test_monitoring import DASHBOARD

pytestmark = [pytest.mark.cluster, needs_prometheus, pytest.mark.timeout(600)]
SECONDS = 110.0
"""Time that is drawn."""
EVERY = 2.0
"""Seconds between two reports of a run."""


class Training(Sender):
    """A run whose trainer is played: its loss falls from report to report."""

    def __init__(self, run: LiveRun, speed: int, seed: int) -> None:
        super().__init__(run)
        self._speed, self._random, self._step = speed, random.Random(seed), 0  # noqa: S311  a picture's

    def go_on(self) -> None:
        self._step += 2
        noise = self._random.gauss
        loss = 0.8 + 1.7 * 0.97**self._step + noise(0, 0.02)
        metrics = {
            "loss": loss,
            "evalLoss": 0.9 + 1.6 * 0.97 ** (self._step // 10 * 10),
            "tokensPerSecond": self._speed + noise(0, 40),
            "gpuMemoryPeakBytes": round(3.3e6 * self._speed * (1 - 0.2 * 0.8**self._step)),
        }
        self.send(self.report(min(self._step, 100), {"metrics": metrics}))


@pytest.fixture
def teams(control_plane: Cluster) -> Iterator[tuple[str, str]]:
    for team in (names := ("search", "support")):
        control_plane.kubectl("create", "namespace", team)
        wait_for_account(control_plane, team)
    yield names
    for team in names:
        control_plane.kubectl("delete", "namespace", team, "--wait=false")


def test_every_panel_has_something_to_show(
    control_plane: Cluster, node: FakeNode, operator: OperatorProcess, teams: tuple[str, str], tmp_path: Path
) -> None:
    search, support = teams
    with PrometheusProcess(tmp_path, operator.health_port, ALERTS) as prometheus:
        wait_until(lambda: prometheus.ask("finetune_leader"), "the operator was scraped")
        began = time.time()
        training = [
            Training(LiveRun(control_plane, node, support, "triage"), 5100, 1),
            Training(LiveRun(control_plane, node, search, "ranker"), 7400, 2),
        ]
        others = [LiveRun(control_plane, node, support, "answers"), LiveRun(control_plane, node, search, "too-hot")]
        waiting = LiveRun(control_plane, node, search, "needs-a-rack")
        plan = {
            10: lambda: waiting.apply({"pod": {"nodeSelector": {"rack": "none"}}}),
            15: lambda: training.append(Training(others[0], 3900, 3)),
            30: lambda: others[1].apply({"backoffLimit": 1}),
            45: lambda: others[1].end_pod(ExitCode.CRASHED),
            60: lambda: others[1].end_pod(ExitCode.CONFIG_INVALID),
            70: lambda: training.pop(1).run.end_pod(0, build_summary()),
            85: lambda: waiting.patch({"suspend": True}),
        }
        while (now := time.time() - began) < SECONDS:
            for moment in [moment for moment in plan if moment <= now]:
                plan.pop(moment)()
            for each in training:
                each.go_on()
            time.sleep(EVERY)
        end = time.time()
        page, width, height = render_dashboard(DASHBOARD, lambda query: prometheus.ask_over(query, began, end, 2.0), _fill)
    _take(page, width, height, tmp_path)
    empty = re.findall(r'<h2>([^<]*)</h2><div class="none">', page)
    assert empty == []


def _take(page: str, width: int, height: int, scratch: Path) -> None:
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("chromium is not installed: make chromium")
    file = scratch / "dashboard.html"
    file.write_text(page)
    folder = Path(os.environ.get("FINETUNE_PICTURES") or scratch)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        view = browser.new_page(viewport={"width": width, "height": height})
        view.goto(file.as_uri())
        view.screenshot(path=folder / "dashboard.png")
        browser.close()
