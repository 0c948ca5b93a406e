"""Alerts, their runbooks and the dashboard: what they ask for is what the operator tells."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from finetune_operator.metrics.catalogue import SECTIONS
from tests.unit.chart.conftest import CHART, Render

RUNBOOKS = Path(__file__).parents[3] / "docs" / "runbooks"
ALERTS: list[dict[str, Any]] = [
    rule for group in yaml.safe_load((CHART / "files" / "alerts.yaml").read_text())["groups"] for rule in group["rules"]
]
DASHBOARD = json.loads((CHART / "files" / "dashboard.json").read_text())


def expressions() -> Iterator[tuple[str, str]]:
    """All queries, with the name of the alert or panel."""
    yield from ((rule["alert"], rule["expr"]) for rule in ALERTS)
    for panel in DASHBOARD["panels"]:
        yield from ((panel["title"], target["expr"]) for target in panel.get("targets", ()))


def names_that_exist() -> dict[str, set[str]]:
    """Series that there can be, and their labels; those that Prometheus adds itself included."""
    exist: dict[str, set[str]] = {"process_resident_memory_bytes": set()}
    for metric in (metric for metrics in SECTIONS.values() for metric in metrics):
        suffixes = ("_bucket", "_sum", "_count") if metric.kind == "histogram" else ("",)
        exist |= {metric.exposed_name + suffix: set(metric.labels) for suffix in suffixes}
    return {name: labels | {"namespace", "pod", "instance", "job", "le"} for name, labels in exist.items()}


@pytest.mark.parametrize(("where", "query"), list(expressions()), ids=lambda text: text[:40])
def test_a_query_asks_for_metrics_and_labels_that_exist(where: str, query: str) -> None:
    exist = names_that_exist()
    asked = set(re.findall(r"\b(?:finetune|process)_[a-z_]+", query))
    assert asked, where
    assert asked <= exist.keys(), where
    labels = {label for name in asked for label in exist[name]}
    used = {part.strip() for group in re.findall(r"(?:by|on) \(([^)]*)\)", query) for part in group.split(",")}
    used |= {label for matchers in re.findall(r"\{([^}]*)\}", query) for label in re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", matchers)}
    assert used <= labels, where


def test_each_alert_has_a_runbook_and_each_runbook_an_alert() -> None:
    pages = {path.stem for path in RUNBOOKS.glob("*.md")} - {"index"}
    assert pages == {rule["alert"] for rule in ALERTS}
    for name in pages:
        text = (RUNBOOKS / f"{name}.md").read_text()
        assert "## Look" in text
        assert "## Do" in text
        assert f"({name}.md)" in (RUNBOOKS / "index.md").read_text()


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: rule["alert"])
def test_an_alert_says_what_is_so_and_how_bad(rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in ("critical", "warning", "info")
    assert rule["annotations"].keys() == {"summary", "description"}


def test_the_chart_gives_alerts_and_dashboard_as_they_are(render: Render) -> None:
    objects = render({"monitoring": {"rules": {"enabled": True}, "dashboard": {"enabled": True}}})
    (rules,) = [each for each in objects if each["kind"] == "PrometheusRule"]
    assert [rule for group in rules["spec"]["groups"] for rule in group["rules"]] == ALERTS
    (config,) = [each for each in objects if each["metadata"].get("labels", {}).get("grafana_dashboard")]
    assert json.loads(config["data"]["finetune-operator.json"]) == DASHBOARD


def test_an_alert_can_be_left_out_and_the_others_lead_to_their_pages(render: Render) -> None:
    rules = {"enabled": True, "disabled": ["FinetuneWaitLong"], "runbookUrl": "https://docs.test/runbooks"}
    (found,) = [each for each in render({"monitoring": {"rules": rules}}) if each["kind"] == "PrometheusRule"]
    pages = {rule["alert"]: rule["annotations"]["runbook_url"] for group in found["spec"]["groups"] for rule in group["rules"]}
    assert pages == {rule["alert"]: f"https://docs.test/runbooks/{rule['alert']}" for rule in ALERTS if rule["alert"] != "FinetuneWaitLong"}


def test_monitors_find_the_operators_pods(render: Render) -> None:
    objects = render({"monitoring": {"serviceMonitor": {"enabled": True}, "podMonitor": {"enabled": True}}})
    by_kind = {each["kind"]: each for each in objects if each["kind"].endswith("Monitor")}
    (deployment,) = [each for each in objects if each["kind"] == "Deployment"]
    template = deployment["spec"]["template"]
    ports = {port["name"] for port in template["spec"]["containers"][0]["ports"]}
    pods = by_kind["PodMonitor"]["spec"]
    assert pods["selector"]["matchLabels"].items() <= template["metadata"]["labels"].items()
    assert pods["podMetricsEndpoints"][0]["port"] in ports
    wanted = by_kind["ServiceMonitor"]["spec"]["selector"]["matchLabels"]
    (service,) = [each for each in objects if each["kind"] == "Service" and wanted.items() <= each["metadata"]["labels"].items()]
    assert service["spec"]["ports"][0]["targetPort"] in ports
    assert service["spec"]["ports"][0]["name"] == by_kind["ServiceMonitor"]["spec"]["endpoints"][0]["port"]
    assert service["spec"]["selector"].items() <= template["metadata"]["labels"].items()
