"""A real MLflow tracking server for tests."""

import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from finetune_devcluster.ports import find_free_ports
from finetune_devcluster.processes import wait_until


@contextmanager
def run_mlflow(folder: Path) -> Iterator[str]:
    """Run ``mlflow server`` on a database in ``folder``; yields its URL."""
    (port,) = find_free_ports(1)
    url = f"http://127.0.0.1:{port}"
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def answers() -> bool:
        try:
            opener.open(f"{url}/health", timeout=2).close()
        except OSError:
            return False
        return True

    command = [str(Path(sys.executable).with_name("mlflow")), "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--default-artifact-root", str(folder / "artifacts")]
    environment = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true", "GIT_PYTHON_REFRESH": "quiet"}
    with (folder / "log").open("wb") as log:
        # A group of its own: the server starts workers, which outlive it
        server = subprocess.Popen(command, stdout=log, stderr=log, env=environment, cwd=folder, start_new_session=True)
        try:
            assert wait_until(answers, 120, interval=0.2), (folder / "log").read_text()
            yield url
        finally:
            os.killpg(server.pid, 9)
            server.wait(10)
