"""``python -m release.pictures --cluster NAME --to FOLDER``: the pictures of the docs that come from a real run.

The cluster is one that ``demo.py --keep`` has left: operator, base model and dataset are there. Another run is submitted by the
command line, on a terminal, and what that shows is drawn; then its adapter is downloaded, and its report looked at.
"""

import argparse
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

import yaml
from playwright.sync_api import sync_playwright
from rich.text import Text

from finetune_devcluster import Cluster
from release.film import render_film
from release.terminal import COLUMNS, Recording
from release.version import ROOT

NAMESPACE: Final = "finetune-quickstart"
LARGEST: Final = 300_000
"""Bytes of one picture."""
_MIDDLE: Final = range(50, 95)
"""Percent at which it is asked who holds the GPUs."""
_PERCENT: Final = 8
"""Between two screens of the film of a run that is watched."""
_SCREENS: Final = 5
"""The fewest that make a film."""
_STEPS: Final = 40
"""Of the run that is watched: the loss has fallen by then."""
_TRAINING_SECONDS: Final = 900.0
_SECONDS: Final = 120.0
_SCHEMES: Final = ("light", "dark")


class Pictures:
    """The pictures of one run of the demo."""

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        self._cluster = cluster
        self._folder = folder
        store = cluster.object_store
        self._environment = {
            "KUBECONFIG": str(cluster.kubeconfig),
            "AWS_ACCESS_KEY_ID": store.access_key,
            "AWS_SECRET_ACCESS_KEY": store.secret_key,
            "AWS_ENDPOINT_URL": store.endpoint,
            "AWS_REGION": store.region,
        }

    def take(self) -> None:
        """Take them all."""
        with tempfile.TemporaryDirectory(prefix="finetune-pictures-") as scratch:
            self._watch(Path(scratch))
            for name, words in (("status", ["status", "support-bot"]), ("list", ["list"])):
                self._record(f"cli-{name}", words)
            self._report(Path(scratch))

    def _watch(self, scratch: Path) -> None:
        """Submit a second run as a person does, and film the screen until its end."""
        manifest = yaml.safe_load((ROOT / "examples" / "quickstart.yaml").read_text())
        manifest["metadata"]["name"] = "support-bot"
        manifest["spec"]["output"]["uri"] = "s3://finetune/adapters/support-bot"
        manifest["spec"]["resources"]["gpus"] = 1
        manifest["spec"]["training"] |= {"maxSteps": _STEPS, "checkpoint": {"everySteps": _STEPS}}
        path = scratch / "support-bot.yaml"
        path.write_text(yaml.safe_dump(manifest, sort_keys=False))
        self._cluster.kubectl("--namespace", NAMESPACE, "delete", "ftj", "support-bot", "--ignore-not-found", "--timeout=100s", timeout=110)
        typed = f"finetune submit --file {path.name} --watch"
        film: list[list[Text]] = []
        filmed: list[int] = []
        asked: list[int] = []

        def look(recording: Recording) -> None:
            found = re.search(r"(\d+)\s?%", recording.read_text())
            percent = int(found[1]) if found else 0
            if not filmed or percent >= filmed[-1] + _PERCENT:
                film.append(recording.read_rows(typed))
                filmed.append(percent)
            if percent in _MIDDLE and not asked:
                asked.append(percent)
                self._record("cli-gpus", ["gpus"])

        recording = self._start(["submit", "--file", str(path), "--watch"])
        code = recording.run(_TRAINING_SECONDS, look)
        if code != 0 or len(filmed) < _SCREENS or not asked:
            raise SystemExit(f"error: finetune submit --watch ended with {code}, seen at {filmed} %:\n{recording.read_text()}")
        self._write("cli-watch.svg", render_film([*film, recording.read_rows(typed)], "finetune submit --watch", COLUMNS))

    def _record(self, name: str, words: list[str]) -> None:
        recording = self._start(words)
        if code := recording.run(_SECONDS):
            raise SystemExit(f"error: finetune {' '.join(words)} ended with {code}:\n{recording.read_text()}")
        self._write(f"{name}.svg", recording.draw(f"finetune {words[0]}", f"finetune {' '.join(words)}"))

    def _start(self, words: list[str]) -> Recording:
        command = [str(Path(sys.executable).with_name("finetune")), words[0], "--namespace", NAMESPACE, *words[1:]]
        return Recording(command, self._environment)

    def _report(self, scratch: Path) -> None:
        """Fetch the run's adapter by the command line, and look at its report in Chromium."""
        to = scratch / "adapter"
        command = [str(Path(sys.executable).with_name("finetune")), "artifacts", "download", "support-bot", "--namespace", NAMESPACE]
        told = subprocess.run(
            [*command, "--to", str(to)], env={**self._environment, "PATH": "/usr/bin:/bin"}, check=False, timeout=_SECONDS
        )
        if told.returncode:
            raise SystemExit(f"error: the adapter could not be downloaded (exit code {told.returncode})")
        (report,) = to.rglob("report.html")
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
            for scheme in _SCHEMES:
                page = browser.new_page(viewport={"width": 1100, "height": 1116}, color_scheme=scheme)
                page.goto(report.as_uri())
                self._write(f"report-{scheme}.png", page.screenshot(clip={"x": 0, "y": 0, "width": 1100, "height": 1116}))
            browser.close()

    def _write(self, name: str, content: str | bytes) -> None:
        data = content.encode() if isinstance(content, str) else content
        if len(data) > LARGEST:
            raise SystemExit(f"error: {name} has {len(data)} bytes, more than {LARGEST}")
        (self._folder / name).write_bytes(data)
        sys.stdout.write(f"{self._folder / name}  {len(data)} bytes\n")


def main(arguments: list[str] | None = None) -> int:
    """Take the pictures."""
    parser = argparse.ArgumentParser(prog="python -m release.pictures", description="Take the docs' pictures of a real run.")
    parser.add_argument("--cluster", required=True, help="development cluster in which the demo has run")
    parser.add_argument("--to", type=Path, default=ROOT / "docs" / "pictures", help="folder (default: docs/pictures)")
    options = parser.parse_args(arguments)
    options.to.mkdir(parents=True, exist_ok=True)
    Pictures(Cluster.attach(options.cluster), options.to).take()
    return 0


if __name__ == "__main__":
    sys.exit(main())
