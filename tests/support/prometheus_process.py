"""Prometheus, built from its Go module, as a process that scrapes one address every second."""

import json
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import yaml

from finetune_devcluster.binaries import ensure_binaries
from finetune_devcluster.ports import find_free_ports

START_SECONDS: Final = 60.0


class PrometheusProcess:
    """Prometheus with the chart's alerts, for as long as the block lasts."""

    def __init__(self, folder: Path, target_port: int, rules: Path) -> None:
        self._folder, self._target_port, self._rules = folder, target_port, rules
        (self._port,) = find_free_ports(1)
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        """Start it and wait until it answers."""
        targets = [{"targets": [f"127.0.0.1:{self._target_port}"], "labels": {"pod": "finetune-operator-0"}}]
        config = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(self._rules)],
            "scrape_configs": [{"job_name": "operator", "honor_labels": True, "static_configs": targets}],
        }
        path = self._folder / "prometheus.yaml"
        path.write_text(yaml.safe_dump(config))
        argv = [str(ensure_binaries(["prometheus"])["prometheus"]), f"--config.file={path}", f"--storage.tsdb.path={self._folder / 'data'}"]
        argv += [f"--web.listen-address=127.0.0.1:{self._port}", "--log.level=warn"]
        with (self._folder / "prometheus.log").open("wb") as log:
            self._process = subprocess.Popen(argv, cwd=self._folder, stdout=log, stderr=log)
        deadline = time.monotonic() + START_SECONDS
        while not self._is_ready():
            assert self._process.poll() is None, (self._folder / "prometheus.log").read_text()
            assert time.monotonic() < deadline, "Prometheus is not ready"
            time.sleep(0.05)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Stop it."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(30)

    def ask(self, query: str) -> list[dict[str, Any]]:
        """Return the result of a query, as of now."""
        result: list[dict[str, Any]] = self._get("query", query=query)["result"]
        return result

    def ask_over(self, query: str, begin: float, end: float, step: float) -> list[dict[str, Any]]:
        """Return the result of a query at every ``step`` seconds from ``begin`` to ``end``, both in Unix time."""
        result: list[dict[str, Any]] = self._get("query_range", query=query, start=str(begin), end=str(end), step=str(step))["result"]
        return result

    def read_rules(self) -> list[dict[str, Any]]:
        """Return the alerts with their health and state."""
        return [rule for group in self._get("rules")["groups"] for rule in group["rules"]]

    def read_targets(self) -> list[dict[str, Any]]:
        """Return what is scraped."""
        targets: list[dict[str, Any]] = self._get("targets")["activeTargets"]
        return targets

    def _get(self, path: str, **query: str) -> Any:
        url = f"http://127.0.0.1:{self._port}/api/v1/{path}?{urllib.parse.urlencode(query)}"
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            with error:
                raise AssertionError(f"{query}: {error.read().decode()}") from None

    def _is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._port}/-/ready", timeout=2) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False
