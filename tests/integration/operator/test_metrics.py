"""What a live operator tells Prometheus.

In CI, Prometheus' own Python parser reads it; with `FINETUNE_PROMETHEUS=1` (`make monitoring`) Prometheus itself scrapes it, evaluates the
alerts and answers every query of the dashboard.
"""

import os
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from finetune_api.exit_codes import ExitCode
from finetune_devcluster.binaries import ensure_binaries
from finetune_operator.metrics.catalogue import SECTIONS
from tests.integration.operator.test_reports_over_https import Sender
from tests.support.live_run import NewRun, wait_until
from tests.support.operator_process import OperatorProcess
from tests.support.prometheus_process import PrometheusProcess
from tests.support.world import build_summary
from tests.unit.chart.test_monitoring import DASHBOARD

pytestmark = pytest.mark.cluster
ALERTS = Path(__file__).parents[3] / "charts" / "finetune-operator" / "files" / "alerts.yaml"
ALERT_TESTS = Path(__file__).parent / "prometheus" / "alerts_test.yaml"
needs_prometheus = pytest.mark.skipif(
    os.environ.get("FINETUNE_PROMETHEUS") != "1", reason="building Prometheus takes minutes: make monitoring"
)
MEASURED = {"metrics": {"loss": 1.5, "evalLoss": 1.75, "tokensPerSecond": 4000, "gpuMemoryPeakBytes": 17_000_000_000}}


def scrape(operator: OperatorProcess) -> dict[str, Metric]:
    with urllib.request.urlopen(f"http://127.0.0.1:{operator.health_port}/metrics", timeout=10) as answer:
        return {family.name: family for family in text_string_to_metric_families(answer.read().decode())}


def of_run(operator: OperatorProcess, sender: Sender) -> dict[str, float]:
    """Return the series of one run."""
    uid = sender.job_ref.uid
    return {
        sample.name: sample.value for family in scrape(operator).values() for sample in family.samples if sample.labels.get("uid") == uid
    }


def test_a_run_has_its_series_as_long_as_it_trains(new_run: NewRun, operator: OperatorProcess) -> None:
    sender = Sender(new_run("measured"))
    sender.run.wait_phase("Running")
    assert sender.send(sender.report(40, MEASURED)) == 202
    wait_until(lambda: of_run(operator, sender).get("finetune_run_loss") == 1.5, "the loss is told")
    told = of_run(operator, sender)
    assert told.pop("finetune_run_last_news_timestamp_seconds") > 0
    assert told == {
        "finetune_run_loss": 1.5,
        "finetune_run_eval_loss": 1.75,
        "finetune_run_tokens_per_second": 4000,
        "finetune_run_gpu_memory_peak_bytes": 17e9,
        "finetune_run_progress_ratio": 0.4,
    }
    sender.run.end_pod(0, build_summary())
    sender.run.wait_phase("Succeeded")
    wait_until(lambda: not of_run(operator, sender), "its series have gone with it")


def test_all_that_the_catalogue_names_is_told_and_read(new_run: NewRun, operator: OperatorProcess) -> None:
    run = new_run()
    run.apply()
    run.wait_phase("Running")
    assert {metric.name for metrics in SECTIONS.values() for metric in metrics} <= scrape(operator).keys()
    families = scrape(operator)

    def labels_of(family: str, label: str) -> set[str]:
        return {sample.labels[label] for sample in families[family].samples if label in sample.labels}

    assert labels_of("finetune_watch_opened_timestamp_seconds", "resource") >= {"finetunejobs", "finetunesweeps", "jobs", "pods", "events"}
    assert {"GET", "POST", "PATCH"} <= labels_of("finetune_api_calls", "verb")
    assert labels_of("finetune_reconcile_seconds", "result") <= {"ok", "retry"}
    assert [sample.value for sample in families["finetune_leader"].samples] == [1]
    (expiry,) = families["finetune_certificate_expiry_timestamp_seconds"].samples
    (resync,) = families["finetune_resync_timestamp_seconds"].samples
    assert expiry.value > resync.value > 0


def test_every_line_about_a_run_names_it(new_run: NewRun, operator: OperatorProcess) -> None:
    run = new_run("spoken-of")
    uid = run.apply()["metadata"]["uid"]

    def read_lines() -> list[dict[str, object]]:
        return [record for record in operator.read_records() if record.get("uid") == uid and record["message"] == "phase is Running"]

    (line,) = wait_until(read_lines, "its phase is in the log", explain=run.explain)
    assert (line["job"], line["attempt"]) == (f"{run.namespace}/spoken-of", 0)


@pytest.fixture(scope="module")
def prometheus(operator: OperatorProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrometheusProcess]:
    with PrometheusProcess(tmp_path_factory.mktemp("prometheus"), operator.health_port, ALERTS) as process:
        wait_until(lambda: process.ask("finetune_leader"), "the operator was scraped")
        yield process


@needs_prometheus
def test_every_query_of_the_dashboard_has_an_answer(new_run: NewRun, prometheus: PrometheusProcess) -> None:
    training, failing = Sender(new_run("training")), new_run("failing")
    training.run.wait_phase("Running")
    assert training.send(training.report(40, MEASURED)) == 202
    failing.apply({"backoffLimit": 1})
    failing.end_pod(ExitCode.CRASHED)
    failing.end_pod(ExitCode.CONFIG_INVALID)
    failing.wait_phase("Failed", 60)
    waiting = new_run("waiting")
    waiting.apply({"pod": {"nodeSelector": {"rack": "none"}}})
    waiting.wait_reason("Unschedulable")
    stopped = new_run("stopped")
    stopped.apply()
    stopped.wait_phase("Running")
    stopped.patch({"suspend": True})
    stopped.wait_phase("Suspended", 60)
    waiting.patch({"suspend": True})  # ends the wait

    def unanswered() -> dict[str, str]:
        panels = [(panel["title"], target["expr"]) for panel in DASHBOARD["panels"] for target in panel.get("targets", ())]
        return {title: query for title, query in panels if not prometheus.ask(_fill(query))}

    wait_until(lambda: not unanswered(), "every panel has data", 60, unanswered)
    (loss,) = prometheus.ask(f'max by (namespace, name) (finetune_run_loss{{namespace="{training.run.namespace}"}})')
    assert loss["value"][1] == "1.5"


@needs_prometheus
def test_every_alert_is_evaluated_and_none_fires(prometheus: PrometheusProcess) -> None:
    rules = prometheus.read_rules()
    wait_until(lambda: all(rule["health"] == "ok" for rule in prometheus.read_rules()), "every alert was evaluated", explain=lambda: rules)
    assert [rule["name"] for rule in prometheus.read_rules() if rule["state"] == "firing"] == []
    assert [(target["health"], target["lastError"]) for target in prometheus.read_targets()] == [("up", "")]


@needs_prometheus
@pytest.mark.parametrize(
    "words", [["check", "rules", "--lint=all", "--lint-fatal", ALERTS], ["test", "rules", ALERT_TESTS]], ids=["lint", "unit tests"]
)
def test_promtool_agrees(words: list[str]) -> None:
    spoken = subprocess.run([ensure_binaries(["promtool"])["promtool"], *words], capture_output=True, text=True, timeout=60, check=False)
    assert spoken.returncode == 0, spoken.stdout + spoken.stderr


def _fill(query: str) -> str:
    return query.replace("$namespace", ".*").replace("$__rate_interval", "15s")
